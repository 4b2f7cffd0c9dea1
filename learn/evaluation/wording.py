"""The numbers of results as people see them, in tables and on pages. Imports nothing."""

CLASSIC = "n_way_k_shot"  # the task that needs no mention
TASK_SETTINGS = ("ways", "queries", "min_ways", "max_ways", "max_queries", "max_shots", "alpha")
NOT_SHARES = ("median_rank", "threshold", "labels_a_clip", "beta")  # metrics, never in percent
SHORT = {
    "balanced_accuracy": "balanced",
    "largest_class": "largest",
    "top1_std_of_folds": "± folds",
    "average_precision": "AP",
    "median_rank": "MedR",
    "labels_a_clip": "labels/clip",
    "map": "mAP",
    "harmonic_mean": "HM",
    "harmonic_mean_of_means": "HM of means",
    "ausuc": "AUSUC",
    "zsl": "ZSL",
}  # names of metrics that are too long for a column
