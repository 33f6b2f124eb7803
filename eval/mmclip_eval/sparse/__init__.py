"""A sparse autoencoder over features: how it is fitted, what its units stand for, and which of them two models share."""
