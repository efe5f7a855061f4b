"""Answers as OpenAPI shows them."""

from typing import Any

Example = dict[str, Any]

MODEL: Example = {"model": "default", "version": "1f0c9a52e4b7"}
ITEM: Example = {"item": 296, "title": "Pulp Fiction"}
RECOMMENDED: Example = {
    "items": [{**ITEM, "score": -4.21}, {"item": 593, "score": -4.37, "title": None}],
    "unknown": [],
    "fallback": False,
    **MODEL,
    "experiment": "pia",
    "arm": "control",
    "surface": "home_card",
}
BATCH: Example = {"answers": [RECOMMENDED]}
SIMILAR: Example = {
    "item": 318,
    "title": "The Shawshank Redemption",
    "source": "decoder",
    "items": [{**ITEM, "score": 0.83}],
    **MODEL,
}
FOUND: Example = {"items": [{**ITEM, "users": 2_144}], **MODEL}
PLACE: Example = {"x": 0.412, "y": -1.03, "items": [{**ITEM, "x": 0.38, "y": -0.9}],
                  "unknown": ["9999999"], **MODEL}  # fmt: skip
MAP: Example = {
    "users": [[-0.31, 0.77], [1.204, 0.09]],
    "available": 4_840,
    "variance": [0.21, 0.13],
    "landmarks": [{**ITEM, "x": 0.38, "y": -0.9}],
    **MODEL,
}
ABOUT: Example = {"coterie": "0.1.0", **MODEL, "items": 3_416, "community": 4_840, "latent": True}
EXPLAINED: Example = {
    "user": "4711",
    **MODEL,
    "history_items": 3,
    "sentence": "Of 4840 candidates near this user, 12 lie inside the sharing radius, …",
    "warnings": [],
    "skipped": "",
    "figures": {"candidates": 4_840.0, "inside_share": 0.0025, "best_help": 0.62},
    "sample": {"used": 4_840, "available": 4_840, "unit": "users"},
    "neighbours": [{"rank": 1, "user_id": 31, "help": 0.62, "help_se": 0.03, "n_shared": 2}],
    "carriers": [{"rank": 1, "user_id": 31, "item_id": 318, "share": 0.4,
                  "title": "The Shawshank Redemption"}],
    "items": [{"item_id": 296, "title": "Pulp Fiction", "score": -4.21, "lift": 0.15,
               "holders": 9}],
    "contributions": [{"item_id": 296, "title": "Pulp Fiction", "history_item_id": 318,
                       "history_title": "The Shawshank Redemption", "contribution": 0.07,
                       "rank": 1}],
    "item_neighbours": [{"item_id": 296, "title": "Pulp Fiction", "user_id": 52,
                         "influence": 1.1, "influence_se": 0.1}],
    "unknown": [],
}  # fmt: skip
EVENT: Example = {
    "event_id": "7c9e6679",
    "user": "4711",
    "kind": "click",
    "time": "2026-03-01T10:00:00Z",
    "item": "318",
    "surface": "home_card",
}
EVENTS: Example = {"stored": 2, "duplicates": 1}
EXPERIMENTS: Example = {
    "experiments": [
        {
            "name": "pia",
            "start": "2026-03-01T00:00:00Z",
            "end": "2026-03-29T00:00:00Z",
            "running": True,
            "exposed": 1.0,
            "primary": "ctr_per_impression",
            "arms": [
                {"name": "control", "share": 0.5, **MODEL},
                {"name": "pia", "share": 0.5, "model": "pia", "version": "93b1d06c7e28"},
            ],
        }
    ]
}
EXPERIMENT: Example = {
    "name": "pia",
    "computed_at": "2026-03-02T09:00:00Z",
    "arms": [
        {"name": name, "share": 0.5, "users": users, "impressions": 20 * users, "clicks": clicks,
         "model": model, "version": version}
        for name, users, clicks, model, version in (
            ("control", 2_013, 4_112, "default", "1f0c9a52e4b7"),
            ("pia", 1_987, 4_340, "pia", "93b1d06c7e28"),
        )
    ],
    "sample_ratio_mismatch": {"p_value": 0.68, "warning": None},
    "results": [
        {"metric": "ctr_per_impression", "arm": "pia", "control_mean": 0.1021, "mean": 0.1092,
         "lift": 0.0695, "low": 0.0121, "high": 0.1302, "p_value": 0.013,
         "verdict": "better",
         "sentence": "pia is better on ctr_per_impression: +6.95 % against control (95 % interval "
         "+1.21 % to +13.0 %, p = 0.013)."}
    ],
    "days": [
        {"date": "2026-03-01", "users": {"control": 1_402, "pia": 1_377},
         "results": [{"metric": "ctr_per_impression", "arm": "pia", "lift": 0.0512,
                      "low": -0.0204, "high": 0.1266}]}
    ],
}  # fmt: skip
STATUS: Example = {"status": "ready"}
PROBLEM: Example = {
    "detail": "k: Input should be a valid integer",
    "request_id": "91b2f0a4c3d5e607",
}
