"""The study of ContraSim on small vision transformers over scikit-learn's digits, in minutes on a CPU."""
