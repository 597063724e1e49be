"""A tiny real Gemma 3 for every test that needs a model, on one thread, in a home of its own."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before any library is imported: most read their environment once.
_HOME = Path(tempfile.mkdtemp(prefix="gemmill-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in ("GEMMILL_HOME", "GEMMILL_DATABASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL",
              "PREFECT_PROFILE", "HF_TOKEN", "HF_HUB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
              "OPENAI_API_KEY"):  # fmt: skip
    os.environ.pop(_name, None)
os.environ |= {
    "HOME": str(_HOME),
    "GEMMILL_HOME": str(_HOME / "gemmill"),
    "PREFECT_HOME": str(_HOME / "prefect"),
    "HF_HOME": str(_HOME / "huggingface"),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # torch takes it over; two threads on a busy machine are slower than one
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",  # of the server that a flow starts for itself
}

(_HOME / "prefect").mkdir()  # the server does not make it

import flows  # noqa: E402, F401  turns off the usage reports of the libraries
from data_checks.contract import read_jsonl  # noqa: E402
from data_checks.sample import SAMPLE_DIR  # noqa: E402
from registry.records import LabelSet, Record, load_label_set  # noqa: E402

# A busy machine is no failure. The second profile is that of make test-all.
settings.register_profile("gemmill", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("thorough", settings.get_profile("gemmill"), max_examples=300)
settings.load_profile("gemmill")

_RECORDS = 48


@pytest.fixture(scope="session")
def labels() -> LabelSet:
    """The label set of the shipped sample."""
    return load_label_set(SAMPLE_DIR / "labels.toml")


@pytest.fixture(scope="session")
def records(labels: LabelSet) -> list[Record]:
    """Some training records of the shipped sample, in scope and out of it."""
    found, problems = read_jsonl(SAMPLE_DIR / "train.jsonl", labels)
    assert not problems
    return found[:_RECORDS]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, records: list[Record], labels: LabelSet) -> Path:
    """A Hugging Face folder: two layers of Gemma 3 with random weights, a tokenizer trained on ``records``.

    Every row is a multiple of 64, so that each block type fits, and bitsandbytes' too. Copy it before changing it.
    """
    from tasks.bases.scratch import build_scratch_base
    from tasks.bases.spec import ScratchBase

    spec = ScratchBase(
        kind="scratch", vocab_size=448, hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_scratch_base(spec, records, labels, folder)
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of a Prefect server with a database of its own, one for all tests: it takes 10 seconds to start."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield str(PREFECT_API_URL.value())
