"""The retrieval job that Feast hands to its user: rows, when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata

from feastrain.errors import UsageError
from feastrain.stores.asof.parquet import filesystem_of
from feastrain.stores.asof.writing import write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa
    from feast import OnDemandFeatureView
    from feast.saved_dataset import SavedDatasetStorage

    from feastrain.stores.asof.rows import Rows
    from feastrain.stores.asof.source import WriteMode

BATCH_BYTES = 1 << 30
"""About how many bytes a batch of a streamed result takes."""


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Features of an entity frame, or rows of one source; nothing is read before it is asked."""

    def __init__(
        self,
        rows: Rows,
        *,
        repo: str,
        write_table: Callable[[Any, pa.Table, WriteMode], None],
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        statement: Callable[[], str] | None = None,
    ) -> None:
        super().__init__()
        self._rows = rows
        self._repo = repo
        self._write_table = write_table
        self._metadata = metadata
        self._full_feature_names = full_feature_names
        self._statement = statement

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """None that are left to apply: on-demand features are part of the rows."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def to_parquet(self, path: str | Path, *, batch_bytes: int = BATCH_BYTES) -> None:
        """Write the rows to one Parquet file, in order, without holding them all in memory.

        The file appears whole or not at all.

        Args:
            path: the file, here or behind a URL.
            batch_bytes: about how much of the result is held at once, twice over.
        """
        source = FileSource(path=FileSource.get_uri_for_file_path(None, str(path)))
        write_parquet(self._rows.batches(batch_bytes), *filesystem_of(source, source.path))

    def batches(self, most_bytes: int) -> Iterator[pa.Table]:
        """Yield the rows in batches of about `most_bytes`, in order."""
        return self._rows.batches(most_bytes)

    def to_sql(self) -> str:
        """Return one DuckDB statement that yields the same rows.

        It reads the entity frame from `entity_frame`, where that was not given as SQL, and is
        to run with `SET TimeZone = 'UTC'`.

        Raises:
            UsageError: a view is not on Parquet, or the job is no point-in-time join.
        """
        if self._statement is None:
            message = "only a point-in-time join of Parquet sources can be told as one statement"
            raise UsageError(message)
        return self._statement()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool | None = False,  # noqa: FBT001, FBT002 - Feast's signature
        timeout: int | None = None,  # noqa: ARG002 - Feast's signature
    ) -> None:
        """Write the rows to a saved dataset: a Parquet file, or a PostgreSQL table.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there and may not be overwritten.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            mode: WriteMode = "replace" if allow_overwrite else "create"
            self._write_table(storage.to_data_source(), self.to_arrow(), mode)
            return
        source = storage.to_data_source()
        location = FileSource.get_uri_for_file_path(self._repo, source.path)
        filesystem, path = filesystem_of(source, location)
        if not allow_overwrite and filesystem.get_file_info(path).type.name != "NotFound":
            raise SavedDatasetLocationAlreadyExists(location=location)
        write_parquet(self._rows.batches(BATCH_BYTES), filesystem, path)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's signature
        return self._rows.table()
