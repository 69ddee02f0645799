"""Statistics of opinion scores: intervals, tests between methods, agreement of the raters."""
import itertools

import numpy as np
from scipy import stats

ALPHA = 0.05


def bootstrap(cube, rng, n=10000):
    """95% confidence intervals of each method's mean, over other raters and other images of the same kind.

    Raters and images are drawn independently (Owen, 2007, the pigeonhole bootstrap, https://arxiv.org/abs/0712.1111).
    With few of either the interval would be too narrow. So one fewer is drawn than there are, which makes the variance
    unbiased (Rao & Wu, 1988), and the percentiles are widened by the ratio of Student's t to the normal distribution
    (Hesterberg, 2015, https://arxiv.org/abs/1411.5279), with Satterthwaite's degrees of freedom.

    cube: float64 (raters, images, methods), NaN where there is no rating.
    n: number of draws.
    Returns one [low, high] per method, or None where there is nothing to estimate it from: fewer than two raters or
    images, or identical ratings.
    """
    n_raters, n_images, _ = cube.shape
    if min(n_raters, n_images) < 2:
        return [None] * cube.shape[2]
    raters = rng.multinomial(n_raters - 1, np.full(n_raters, 1 / n_raters), n).astype(float)
    images = rng.multinomial(n_images - 1, np.full(n_images, 1 / n_images), n).astype(float)
    intervals = []
    for x in np.moveaxis(cube, 2, 0):
        known = ~np.isnan(x)
        if min(known.any(0).sum(), known.any(1).sum()) < 2 or np.nanmin(x) == np.nanmax(x):
            intervals.append(None)
            continue
        count = ((raters @ known.astype(float)) * images).sum(1)
        total = ((raters @ np.nan_to_num(x)) * images).sum(1)
        tail = stats.norm.cdf(stats.t.ppf(ALPHA / 2, _degrees_of_freedom(x)))
        low, high = np.quantile(total[count > 0] / count[count > 0], [tail, 1 - tail])
        intervals.append([float(low), float(high)])
    return intervals


def _degrees_of_freedom(x):
    """Satterthwaite's degrees of freedom of the mean of (raters, images), whose variance comes from both."""
    means = [x[~np.isnan(x).all(1)], x.T[~np.isnan(x).all(0)]]
    means = [np.nanmean(part, axis=1) for part in means]
    variances = [part.var(ddof=1) / len(part) for part in means]
    weights = sum(v ** 2 / (len(part) - 1) for v, part in zip(variances, means, strict=True))
    return sum(variances) ** 2 / weights if weights else np.inf


def compare(cube, methods):
    """Wilcoxon's signed-rank test between every two methods, with Holm's correction.

    Each rater counts as one pair of values, the means over the images rated in both versions: a rater's own scores are
    not independent of each other, and counting each of them would make anything significant.

    Returns [{"a", "b", "difference" (b minus a), "raters", "p", "p_holm"}]; p is None where there is nothing to test.
    """
    pairs = []
    for a, b in itertools.combinations(range(len(methods)), 2):
        difference = cube[:, :, b] - cube[:, :, a]
        per_rater = np.nanmean(difference[~np.isnan(difference).all(1)], axis=1)
        mean = float(per_rater.mean()) if per_rater.size else None
        pairs.append({"a": methods[a], "b": methods[b], "difference": mean, "raters": int(per_rater.size),
                      "p": signed_rank(per_rater)})
    known = sorted((pair for pair in pairs if pair["p"] is not None), key=lambda pair: pair["p"])
    highest = 0.0
    for i, pair in enumerate(known):  # Holm, 1979: the smallest p times n, the next times n - 1, ..., never decreasing
        highest = max(highest, min(1.0, pair["p"] * (len(known) - i)))
        pair["p_holm"] = highest
    return [{"p_holm": None, **pair} for pair in pairs]


def signed_rank(differences):
    """Two-sided p of Wilcoxon's signed-rank test without zeros; None with fewer than two differences.

    Exact for up to 13 differences, with or without ties, like `scipy.stats.wilcoxon` but hundreds of times faster.
    """
    differences = np.round(differences[np.abs(differences) > 1e-9], 9)  # rounding makes ties of equal means
    if len(differences) < 2:
        return None
    if len(differences) > 13:
        return float(stats.wilcoxon(differences).pvalue)
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    return float(stats.permutation_test((ranks,), lambda r, axis: r.sum(axis), permutation_type="samples",
                                        vectorized=True, n_resamples=np.inf).pvalue)


def icc(x):
    """Intraclass correlation of the raters, ICC(2,1) and ICC(2,k) of Shrout & Fleiss, 1979: two-way random, agreement.

    The variances of pictures, raters and residual follow from the sums of squares within pictures, within raters and in
    total (Gao & Owen, 2017, https://projecteuclid.org/euclid.ejs/1492135234): the analysis of variance where everyone
    rated everything, and unbiased where some did not.

    x: float (pictures, raters), NaN where there is no rating.
    Returns {"single", "average", "raters"}: for one rater, for the mean of all, and the number of raters of a picture
    (harmonic mean). None where it can't be estimated.
    """
    nothing = {"single": None, "average": None, "raters": None}
    known = ~np.isnan(x)
    x, known = (part[known.any(1)][:, known.any(0)] for part in (x, known))
    per_picture, per_rater, n = known.sum(1), known.sum(0), known.sum()
    if min(x.shape) < 2 or n <= max(x.shape):
        return nothing
    squares = [np.nansum((x - np.nanmean(x, axis=axis, keepdims=True)) ** 2) for axis in (1, 0, None)]
    if squares[2] == 0:
        return nothing
    equations = [[0, n - x.shape[0], n - x.shape[0]],
                 [n - x.shape[1], 0, n - x.shape[1]],
                 [n - (per_picture ** 2).sum() / n, n - (per_rater ** 2).sum() / n, n - 1]]
    pictures, raters, residual = np.linalg.solve(equations, squares)
    k = len(per_picture) / (1 / per_picture).sum()
    totals = pictures + raters + residual, pictures + (raters + residual) / k
    if min(totals) < 1e-9:  # raters who contradict each other throughout: the estimates of variance cancel out
        return nothing
    return {"single": float(pictures / totals[0]), "average": float(pictures / totals[1]), "raters": float(k)}
