"""What the figures of an autoencoder stand beside: principal components, and features without any structure but theirs."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip_eval.sparse.reconstruction import Explained, errors_of, explained


def by_principal_components(
    fitted: Float[Tensor, "fitted width"], held_out: Float[Tensor, "held_out width"], components: int
) -> Explained:
    """What so many principal components of `fitted` explain of `held_out`: the same ones for every row.

    The number is bounded by what the fitted rows can give.
    """
    from sklearn.decomposition import PCA

    most = min(components, fitted.shape[1], len(fitted) - 1)
    model = PCA(most, svd_solver="full").fit(fitted.double().cpu().numpy())

    def rebuild(rows: Tensor) -> Tensor:
        return torch.from_numpy(model.inverse_transform(model.transform(rows.double().cpu().numpy())))

    return explained(held_out, errors_of(rebuild, held_out.cpu()), fitted.mean(dim=0))


def gaussian_twin(rows: Float[Tensor, "row width"], seed: int) -> Float[Tensor, "row width"]:
    """As many rows drawn from the normal distribution of the mean and the covariance of `rows`.

    All that a principal component sees is the same; sparse parts, if there were any, are gone.
    """
    exact = rows.double().cpu()
    mean = exact.mean(dim=0)
    covariance = (exact - mean).T @ (exact - mean) / max(len(rows) - 1, 1)
    values, vectors = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows.shape, dtype=torch.float64, generator=generator)
    return (mean + (drawn * values.clamp_min(0).sqrt()) @ vectors.T).to(rows.dtype)
