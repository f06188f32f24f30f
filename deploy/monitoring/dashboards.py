"""What the Grafana dashboards show: data, training, serving, databases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 24, 8
"""Columns of a dashboard's grid, and rows of one panel."""
SHOP = 'namespace=~"$namespace"'
RUN = f'{SHOP}, run=""'
"""A run that is under way: what it pushed when it ended has a label `run`."""
FORECAST = f'{SHOP}, route="/v1/forecasts"'


@dataclass(frozen=True)
class Panel:
    """One chart: queries in PromQL, each with what its lines are called."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    """As Grafana names it: `s`, `percentunit`, `reqps`, `bytes`."""
    about: str = ""


def quantiles(name: str, matchers: str) -> dict[str, str]:
    """Return the median, the 95th and the 99th percentile of a histogram."""
    rate = f"sum by (le) (rate({name}_bucket{{{matchers}}}[$__rate_interval]))"
    return {f"p{q}": f"histogram_quantile(0.{q}, {rate})" for q in ("50", "95", "99")}


def rate(name: str, by: str, matchers: str = SHOP) -> dict[str, str]:
    """Return how often something happens in a second, by a label."""
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({name}{{{matchers}}}[$__rate_interval]))"}


DATA = (
    Panel(
        "Stages that failed when they ran last",
        {"{{verb}} {{recipe}}: {{stage}}": f"feastrain_stage_failed{{{SHOP}}} == 1"},
    ),
    Panel(
        "Time of a stage",
        {"{{recipe}}: {{stage}}": f"max by (recipe, stage) (feastrain_stage_seconds{{{SHOP}}})"},
        "s",
    ),
    Panel(
        "Since a verb ran",
        {
            "{{verb}} {{recipe}}": "time() - max by (verb, recipe) "
            f'(push_time_seconds{{{SHOP}, verb!=""}})'
        },
        "s",
    ),
    Panel(
        "Age of the features that are served",
        {
            "oldest": f"time() - min(feastrain_serving_cutoff_timestamp_seconds{{{SHOP}}})",
            "limit": f"min(feastrain_serving_feature_age_limit_seconds{{{SHOP}}})",
        },
        "s",
    ),
    Panel(
        "Values that differ between the stores",
        {
            "{{recipe}}: {{cause}}": f"sum by (recipe, cause) (feastrain_skew_values{{{SHOP}}})"
            f" / on (recipe) group_left sum by (recipe) (feastrain_skew_compared_values{{{SHOP}}})"
        },
        "percentunit",
        "docs/skew.md says what each cause means.",
    ),
    Panel(
        "Since the stores were compared",
        {"{{skew}}": f'time() - max by (skew) (push_time_seconds{{{SHOP}, skew!=""}})'},
        "s",
    ),
    Panel(
        "Features that moved most: population stability index",
        {"{{feature}}": f"topk(10, max by (feature) (feastrain_drift_psi{{{SHOP}}}))"},
        about="Below 0.1 nothing, beyond 0.25 another population.",
    ),
    Panel(
        "Features that moved most: Kolmogorov-Smirnov distance",
        {"{{feature}}": f"topk(10, max by (feature) (feastrain_drift_ks_distance{{{SHOP}}}))"},
    ),
    Panel(
        "Missing values that grew most",
        {
            "{{feature}}": "topk(10, max by (feature) "
            f"(feastrain_drift_missing_change_ratio{{{SHOP}}}))"
        },
        "percentunit",
    ),
    Panel(
        "Rows with a category that is new",
        {
            "{{feature}}": "topk(10, max by (feature) "
            f"(feastrain_drift_new_category_ratio{{{SHOP}}}) > 0)"
        },
        "percentunit",
    ),
)
TRAINING = (
    Panel(
        "Runs",
        {
            "{{recipe}} from {{snapshot}}: {{run}}": "count by (recipe, snapshot, run) "
            f"(feastrain_training_info{{{SHOP}}})"
        },
    ),
    Panel("Progress", {"{{pod}}": f"feastrain_training_progress_ratio{{{RUN}}}"}, "percentunit"),
    Panel("Time left", {"{{pod}}": f"feastrain_training_remaining_seconds{{{RUN}}}"}, "s"),
    Panel(
        "Loss",
        {
            "{{pod}} training": f"feastrain_training_loss{{{RUN}}}",
            "{{pod}} validation": f"feastrain_training_validation_loss{{{RUN}}}",
        },
    ),
    Panel(
        "Error on the validation rows",
        {"{{pod}}": f"feastrain_training_validation_wmae{{{RUN}}}"},
        about="Weighted mean absolute error, in the label's unit.",
    ),
    Panel("Norm of the gradient", {"{{pod}}": f"feastrain_training_gradient_norm{{{RUN}}}"}),
    Panel("Rows in a second", {"{{pod}}": f"feastrain_training_rows_per_second{{{RUN}}}"}),
    Panel("Time of a step", quantiles("feastrain_training_step_seconds", RUN), "s"),
    Panel(
        "Time to write a checkpoint",
        quantiles("feastrain_training_checkpoint_seconds", RUN),
        "s",
    ),
    Panel(
        "Age of the newest checkpoint",
        {
            "{{pod}}": f"feastrain_training_checkpoint_age_seconds{{{RUN}}}",
            "{{pod}} asked for": f"feastrain_training_checkpoint_interval_seconds{{{RUN}}}",
        },
        "s",
    ),
    Panel(
        "Silence",
        {
            "{{pod}}": f"feastrain_training_silent_seconds{{{RUN}}}",
            "{{pod}} limit": f"feastrain_training_silence_limit_seconds{{{RUN}}}",
        },
        "s",
    ),
    Panel("Restarts of the ranks", {"{{pod}}": f"feastrain_training_restarts_total{{{RUN}}}"}),
)
SERVING = (
    Panel(
        "Forecasts that fail",
        {
            "in 5 minutes": f"namespace:feastrain_forecast_errors:share_rate5m{{{SHOP}}}",
            "in an hour": f"namespace:feastrain_forecast_errors:share_rate1h{{{SHOP}}}",
            "in 3 days": f"namespace:feastrain_forecast_errors:share_rate3d{{{SHOP}}}",
        },
        "percentunit",
        "Promised: at most 0.1 % over 30 days.",
    ),
    Panel(
        "Forecasts that take longer than 250 ms",
        {
            "in 5 minutes": f"namespace:feastrain_forecast_slow:share_rate5m{{{SHOP}}}",
            "in an hour": f"namespace:feastrain_forecast_slow:share_rate1h{{{SHOP}}}",
            "in 3 days": f"namespace:feastrain_forecast_slow:share_rate3d{{{SHOP}}}",
        },
        "percentunit",
        "Promised: at most 1 % over 30 days.",
    ),
    Panel(
        "Requests, by status", rate("feastrain_serving_request_seconds_count", "status"), "reqps"
    ),
    Panel("Requests, by route", rate("feastrain_serving_request_seconds_count", "route"), "reqps"),
    Panel(
        "Time to answer a forecast", quantiles("feastrain_serving_request_seconds", FORECAST), "s"
    ),
    Panel("Time of the online store", quantiles("feastrain_serving_read_seconds", SHOP), "s"),
    Panel("Series, by status", rate("feastrain_serving_series_total", "status")),
    Panel("Reads, by the store that answered", rate("feastrain_serving_reads_total", "source")),
    Panel(
        "Age of the features of a request",
        quantiles("feastrain_serving_feature_age_seconds", SHOP),
        "s",
    ),
    Panel(
        "Forecasts next to what was usual",
        quantiles("feastrain_serving_forecast_ratio", SHOP)
        | {"mean of a day": f"namespace:feastrain_serving_forecast_ratio:mean1d{{{SHOP}}}"},
        about="Mean median forecast over the mean of the last 52 labels.",
    ),
    Panel(
        "Servers, by the bundle that answers",
        {"{{bundle}}": f"sum by (bundle) (feastrain_serving_bundle{{{SHOP}}})"},
    ),
    Panel("Bundles pointed to", rate("feastrain_serving_bundle_swaps_total", "outcome")),
    Panel(
        "Breaker before Redis",
        {"{{pod}}": f"max by (pod) (feastrain_online_breaker_state{{{SHOP}}})"},
        about="0 closed, 1 on trial, 2 open.",
    ),
    Panel("Keys, by the store that answered", rate("feastrain_online_answers_total", "source")),
    Panel(
        "Calls that Redis did not answer", rate("feastrain_online_primary_errors_total", "error")
    ),
    Panel("Waits without a connection", rate("feastrain_online_pool_timeouts_total", "store")),
)
DATABASES = (
    Panel("PostgreSQL answers", {"{{pod}}": f"cnpg_collector_up{{{SHOP}}}"}),
    Panel("Behind the primary", {"{{pod}}": f"cnpg_pg_replication_lag{{{SHOP}}}"}, "s"),
    Panel(
        "Standbys of the primary",
        {
            "{{pod}}": f"cnpg_pg_replication_streaming_replicas{{{SHOP}}}"
            f" and cnpg_pg_replication_in_recovery{{{SHOP}}} == 0"
        },
    ),
    Panel(
        "Connections, by state",
        {"{{state}}": f"sum by (state) (cnpg_backends_total{{{SHOP}}})"},
    ),
    Panel(
        "Longest transaction",
        {"{{pod}}": f"max by (pod) (cnpg_backends_max_tx_duration_seconds{{{SHOP}}})"},
        "s",
    ),
    Panel(
        "Transactions",
        {
            "committed": "sum(rate("
            f"cnpg_pg_stat_database_xact_commit{{{SHOP}}}[$__rate_interval]))",
            "rolled back": "sum(rate("
            f"cnpg_pg_stat_database_xact_rollback{{{SHOP}}}[$__rate_interval]))",
        },
    ),
    Panel(
        "Size of a database",
        {"{{datname}}": f"max by (datname) (cnpg_pg_database_size_bytes{{{SHOP}}})"},
        "bytes",
    ),
    Panel(
        "Clients that wait for a connection",
        {"{{pod}}": f"sum by (pod) (cnpg_pgbouncer_pools_cl_waiting{{{SHOP}}})"},
    ),
    Panel(
        "Longest wait for a connection",
        {"{{pod}}": f"max by (pod) (cnpg_pgbouncer_pools_maxwait{{{SHOP}}})"},
        "s",
    ),
    Panel(
        "Since the last backup",
        {
            "{{namespace}}": "time() - max by (namespace) ({"
            '__name__=~"(cnpg_collector|barman_cloud_cloudnative_pg_io)'
            f'_last_available_backup_timestamp", {SHOP}}})'
        },
        "s",
    ),
    Panel(
        "Since the write-ahead log was archived",
        {"{{pod}}": f"cnpg_pg_stat_archiver_seconds_since_last_archival{{{SHOP}}} >= 0"},
        "s",
    ),
    Panel(
        "Archiving that failed",
        {"{{pod}}": f"increase(cnpg_pg_stat_archiver_failed_count{{{SHOP}}}[1h])"},
    ),
)
DASHBOARDS = {"data": DATA, "training": TRAINING, "serving": SERVING, "databases": DATABASES}


def dashboard(name: str) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it, its panels two in a row."""
    return {
        "uid": f"feastrain-{name}",
        "title": f"feastrain: {name}",
        "tags": ["feastrain"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source(), _namespace()]},
        "panels": [_panel(place, panel) for place, panel in enumerate(DASHBOARDS[name])],
    }


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {
            "x": place % 2 * WIDTH // 2,
            "y": place // 2 * HEIGHT,
            "w": WIDTH // 2,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _namespace() -> dict[str, Any]:
    return {
        "name": "namespace",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": "label_values(up, namespace)",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }
