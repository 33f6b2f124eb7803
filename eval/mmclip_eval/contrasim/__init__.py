"""ContraSim, a learned similarity of representations (Rahamim and Belinkov 2024), and the controls that it needs."""
