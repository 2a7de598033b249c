"""One evaluation of made-up shoppers beside the oracle's answers in truth.csv, or the means of several.

    oracle.py SEED MADE_FOLDER EVALUATION_FOLDER    one line of JSON a head
    oracle.py LINES                                 the table
"""
import json
import sys

import polars as pl


def auc(labels, scores):
    """Area under the ROC curve, ties counted half (Mann-Whitney)."""
    frame = pl.DataFrame({"y": labels, "s": scores}).with_columns(r=pl.col("s").rank("average"))
    positives = frame["y"].sum()
    negatives = len(frame) - positives
    return (frame.filter("y")["r"].sum() - positives * (positives + 1) / 2) / (positives * negatives)


DAY_MS = 86_400_000


def one(seed, made, folder):
    metrics = json.load(open(f"{folder}/metrics.json"))
    cutoff = metrics["cutoff_ms"]
    days = {"churn": metrics["trained_churn_days"], "purchase": metrics["trained_purchase_days"]}
    after = pl.read_csv(f"{made}/events.csv.zst", infer_schema_length=0).select(
        "user_id", "event_type", time=pl.col("timestamp").cast(pl.Int64) - cutoff
    ).filter(pl.col("time") >= 0)
    active = after.filter(pl.col("time") < days["churn"] * DAY_MS)["user_id"].unique()
    buyers = after.filter((pl.col("time") < days["purchase"] * DAY_MS) & (pl.col("event_type") == "purchase"))["user_id"].unique()
    truth = pl.read_csv(f"{made}/truth.csv", infer_schema_length=0).select("user_id", "cutoff_churn", "cutoff_purchase")
    rows = pl.read_parquet(f"{folder}/predictions.parquet").join(truth, on="user_id")
    rows = rows.filter(pl.col("cutoff_churn").is_not_null() & (pl.col("cutoff_churn") != "")).with_columns(
        left=~pl.col("user_id").is_in(active.implode()), bought=pl.col("user_id").is_in(buyers.implode())
    )
    for head, label in (("churn", "left"), ("purchase", "bought")):
        line = {"seed": seed, "head": head, "users": len(rows)}
        line["oracle"] = auc(rows[label], rows[f"cutoff_{head}"].cast(pl.Float64))
        line["model"] = auc(rows[label], rows[head])
        for name in ("bg_nbd", "trees"):
            line[name] = metrics[head].get(name, {}).get("roc_auc")
        line["share"] = (line["model"] - 0.5) / (line["oracle"] - 0.5)
        print(json.dumps(line))


def table(lines):
    rows = pl.DataFrame([json.loads(line) for line in open(lines)])
    names = ["oracle", "model", "bg_nbd", "trees", "share"]
    means = rows.group_by("head", maintain_order=True).agg(pl.col(names).mean())
    print(f"{'':14}" + "".join(f"{name:>9}" for name in names))
    for row in rows.iter_rows(named=True):
        print(f"{row['head']:9} {row['seed']:>4}" + "".join(f"{row[name]:9.4f}" for name in names))
    for row in means.iter_rows(named=True):
        print(f"{row['head']:9} mean" + "".join(f"{row[name]:9.4f}" for name in names))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        table(sys.argv[1])
    else:
        one(*sys.argv[1:])
