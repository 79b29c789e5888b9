"""What every dialect asks of the appliance. The real service is one implementation, the tests' script another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from appliance.core import (
    ChatRequest,
    CreateRequest,
    Embeddings,
    EmbedRequest,
    EngineStats,
    GenerateRequest,
    LoadedModel,
    ModelDetails,
    ModelSummary,
    Progress,
    Ranking,
    Reply,
    RerankRequest,
    TransferRequest,
)
from appliance.upkeep import DiskUsage, Pruned, SharedManifest, Verified


class Packing(Protocol):
    """Models on their way out."""

    size: int
    """Bytes of the archive."""

    def chunks(self) -> Generator[bytes, None, None]:
        """The archive, piece by piece. Blocks."""


class Unpacking(Protocol):
    """An archive on its way in. Every method blocks; abort() always comes last."""

    def write(self, data: bytes) -> None:
        """Take the next piece."""

    def commit(self) -> Sequence[str]:
        """That was all: install the models and return their names."""

    def abort(self) -> None:
        """Drop what was written; harmless after commit()."""


class Caretaker(Protocol):
    """Looks after the store. Every method blocks, and raises classes of appliance.errors."""

    def disk_usage(self) -> DiskUsage:
        """What the store takes, and what is left of the disk."""

    def prune(self, dry_run: bool) -> Pruned:
        """Remove what nothing uses, or only list it."""

    def verify(self, *, remove: bool, dry_run: bool) -> Generator[Progress, None, Verified]:
        """Compare all that is in the store with what was put there; with `remove`, what is damaged goes,
        or with `dry_run` counts as removed."""

    def pack(self, models: Sequence[str]) -> Packing:
        """Begin an archive of models; raises ModelNotFound, and others where one is not whole."""

    def unpack(self, dry_run: bool) -> Unpacking:
        """Begin to import an archive, or only to check it."""


class Library(Protocol):
    """What other machines may read. Every method blocks."""

    def manifest(self, namespace: str, model: str, reference: str) -> SharedManifest:
        """A model's manifest by tag or digest; raises ModelNotFound."""

    def blob(self, namespace: str, model: str, digest: str) -> Path:
        """A blob of one of the repository's models; raises BlobNotFound."""

    def tags(self, namespace: str, model: str) -> Sequence[str]:
        """A repository's tags; raises ModelNotFound."""


class InferenceService(Protocol):
    """Every method raises classes of appliance.errors. Closing a generator cancels its work."""

    @property
    def version(self) -> str:
        """The version of the Ollama API that is spoken."""

    @property
    def cloud_switch(self) -> str:
        """Where a cloud was switched off, in the words of /api/status."""

    @property
    def caretaker(self) -> Caretaker:
        """Who looks after the store."""

    @property
    def library(self) -> Library:
        """The store as other machines may see it."""

    def chat(self, request: ChatRequest) -> AsyncGenerator[Reply, None]:
        """Continue a conversation."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Reply, None]:
        """Continue a prompt."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The embeddings of some texts. Cancelling ends it."""

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Documents by how well they answer a query. Cancelling ends it."""

    async def models(self) -> list[ModelSummary]:
        """Installed models."""

    async def show(
        self, model: str, *, system: str = "", options: Mapping[str, Any] | None = None, verbose: bool = False
    ) -> ModelDetails:
        """Everything about one model, with `system` and `options` merged in for display."""

    async def loaded(self) -> list[LoadedModel]:
        """Loaded models."""

    async def stats(self) -> Mapping[str, EngineStats]:
        """What the engine of each loaded model does, by the model's name."""

    async def copy(self, source: str, destination: str) -> None:
        """Give an installed model another name."""

    async def delete(self, model: str) -> None:
        """Remove a model, and the blobs that no other model uses."""

    def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Make a model; the last progress is `success`."""

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Fetch a model from a registry; the last progress is `success`."""

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Send a model to a registry; the last progress is `success`."""

    async def has_blob(self, digest: str) -> bool:
        """Whether the blob is in the store."""

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes], length: int | None = None) -> bool:
        """Store a blob. True: created; False: it was there, `chunks` were not read."""


class ApiSettings(Protocol):
    """The settings that concern HTTP."""

    @property
    def host(self) -> str:
        """The address that the server listens on."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Browser origins allowed besides the local ones; each may hold one `*`."""

    @property
    def share(self) -> bool:
        """Whether other machines may pull models from this one."""


Injected = NamedDependency[SkipValidation[InferenceService]]
"""How a route handler names the service among its parameters."""
