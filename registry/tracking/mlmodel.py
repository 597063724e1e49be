"""What MLflow reads of a logged model beside its package: how it is loaded, asked and installed. No pickle is in it."""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from registry.tracking.versions import PACKAGE_FOLDER

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

_LOADER = "gemmill"  # the installed module; its _load_pyfunc opens the package
_CONDA, _PYTHON, _REQUIREMENTS = "conda.yaml", "python_env.yaml", "requirements.txt"


def write_model_files(folder: Path, model: "LoggedModel", *, run_id: str, gguf: str, example: str) -> None:
    """Write MLmodel, the example and the environment of a package that holds the file ``gguf``.

    ``example`` is a command that the model answers.
    """
    import pandas
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.utils import _save_example
    from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

    needed = f"gemmill=={metadata.version('gemmill')}"  # which brings MLflow and all else
    described = Model(
        artifact_path=model.artifact_location,
        run_id=run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
        signature=_signature(),
    )
    described.add_flavor("gguf", data=f"{PACKAGE_FOLDER}/{gguf}", modelfile=f"{PACKAGE_FOLDER}/Modelfile")
    pyfunc.add_to_model(described, loader_module=_LOADER, data=PACKAGE_FOLDER, conda_env=_CONDA, python_env=_PYTHON)
    _save_example(described, pandas.DataFrame({"command": [example]}), str(folder))
    (folder / _REQUIREMENTS).write_text(f"{needed}\n", encoding="utf-8")
    _PythonEnv.current().to_yaml(folder / _PYTHON)
    _mlflow_conda_env(folder / _CONDA, additional_pip_deps=[needed], install_mlflow=False)
    described.save(folder / "MLmodel")


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Map, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string")]),  # MLflow refuses a plain list where the column has a name
        outputs=Schema(
            [
                ColSpec("string", "command"),
                ColSpec("string", "intent", required=False),
                ColSpec(Map(AnyType()), "entities"),
                ColSpec("double", "confidence", required=False),
                ColSpec("boolean", "ask_person"),
                ColSpec("string", "decoding"),
                ColSpec("string", "failure"),
            ]
        ),
    )
