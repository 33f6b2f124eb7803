"""Names of metrics as a person says them, on a page that shows those of every task."""

METRIC_WORDS = {
    "acc1": "top\u20111 accuracy",
    "acc5": "top\u20115 accuracy",
    "mean_per_class_recall": "mean recall of the classes",
    "mean_average_precision": "mean average precision",
    "image_retrieval_median_rank": "caption to picture, median rank",
    "text_retrieval_median_rank": "picture to caption, median rank",
    "text_acc": "the right caption for a picture",
    "image_acc": "the right picture for a caption",
    "acc": "both right",
    "acc_wg": "worst group, top\u20111 accuracy",
    "acc_top5_wg": "worst group, top\u20115 accuracy",
    "acc_avg": "all groups together, top\u20111 accuracy",
    "recall-macro_all": "mean recall of the classes",
    "F1-macro_all": "mean F1 score of the classes",
    "expected_calibration_error": "expected calibration error",
    "shifted_acc1": "on the shifted pictures, top\u20111 accuracy",
    "clean_acc1": "on the clean pictures, top\u20111 accuracy",
    "robustness_gap": "lost by the shift",
    "effective_robustness": "effective robustness",
}
RETRIEVAL_WORDS = {"image_retrieval_recall": "caption to picture", "text_retrieval_recall": "picture to caption"}
PROBES = {"lp": "linear probe", "tip": "Tip\u2011Adapter", "knn": "nearest neighbours"}
OUTLIER_WORDS = {
    "energy_auroc": "energy, AUROC against {}",
    "energy_fpr95": "energy, share of {} let in where 95 % are kept",
    "softmax_auroc": "best softmax, AUROC against {}",
    "softmax_fpr95": "best softmax, share of {} let in where 95 % are kept",
}


def words_of(metric: str, *, in_its_task: bool = False) -> str:
    """A metric's name as a person says it; `in_its_task` leaves out what the name of its task says already."""
    stem, at, rest = metric.partition("@")
    if at and stem in RETRIEVAL_WORDS:
        return f"{RETRIEVAL_WORDS[stem]}, recall@{rest}"
    if at and stem in OUTLIER_WORDS:
        return OUTLIER_WORDS[stem].replace("{}", rest)
    probe, _, figure = stem.partition("_")
    if probe in PROBES and figure in METRIC_WORDS:
        shots = [f"{rest} {'example' if rest == '1' else 'examples'} a class"] if at else []
        return ", ".join([*([] if in_its_task else [PROBES[probe]]), *shots, METRIC_WORDS[figure]])
    return METRIC_WORDS.get(metric, metric.replace("_", " "))
