"""What comes from outside is data: nothing in it is run, no name leads out of a folder, no secret gets into a file."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("ssl_cls", "eval", "tools") for path in (ROOT / folder).rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a module, by the dotted name that it is written with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unpicklers(path: Path) -> Iterator[str]:
    """What a module takes out of modules that unpickle, so that a call of it would not show where it is from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "joblib", "marshal", "shelve"):
            yield from (alias.name for alias in node.names if alias.name != "UnpicklingError")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in ("dill", "joblib", "marshal", "shelve"))


def given(call: ast.Call, keyword: str) -> str:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == keyword), "")


def dangerous(name: str, call: ast.Call) -> bool:
    last = name.rsplit(".", 1)[-1]
    return (
        name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
        or last in ("extractall", "unpack_archive", "unsafe_load", "full_load")
        or name.split(".")[0] in ("pickle", "dill", "joblib", "marshal", "shelve")
        or (name == "torch.load" and given(call, "weights_only") != "True")
        or (name in ("np.load", "numpy.load") and given(call, "allow_pickle") != "False")
        or (name in ("yaml.load", "yaml.load_all") and "Safe" not in ast.unparse(call))
        or given(call, "shell") == "True"
        or last in ("load_state", "save_state")  # Accelerate's: they unpickle
    )


@pytest.mark.parametrize(
    "line",
    [
        *("eval(x)", "exec(x)", "os.system(x)", "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)"),
        *("np.load(f)", "np.load(f, allow_pickle=True)", "yaml.load(f, Loader=yaml.Loader)", "tar.extractall(to)"),
        *("subprocess.run(x, shell=True)", "accelerator.load_state(f)", "shutil.unpack_archive(f)"),
    ],
)
def test_the_reader_of_the_code_knows_what_is_dangerous(line: str) -> None:
    call = ast.parse(line).body[0].value  # type: ignore[attr-defined]
    assert dangerous(ast.unparse(call.func), call)


def test_no_code_of_ours_runs_what_it_reads() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in MODULES
        for name, call in calls(path)
        if dangerous(name, call)
    ]
    assert not found
    assert not {str(path): names for path in MODULES if (names := list(unpicklers(path)))}


RECIPE = """
name: tiny
data: {source: digits}
backbone: {name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}, pooling: avg}
method: {name: mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2}
optim: {name: adamw, lr: 1e-3}
train: {epochs: 1, batch_size: 128}
run: {checkpoint_every_steps: 4, log_every_steps: 2}
"""


@pytest.mark.slow
def test_secrets_of_the_environment_are_in_no_file_of_a_run(tmp_path: Path) -> None:
    secret = "canary-5f1d7c"
    names = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "DATABASE_URL", "SSH_PASSWORD")
    environment = {**os.environ, **{name: f"https://user:{secret}@host/{name}" for name in names}}
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    for tool, *arguments in (
        ["pretrain.py", "tiny.yaml"],
        ["evaluate.py", "runs/tiny-seed0", "--evaluators", "knn"],
        ["compare.py", "runs/tiny-seed0", "--out", "report"],
    ):
        command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert secret.encode() not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"metrics.jsonl", "results.jsonl", "index.html", "log.txt", "state.json"} <= {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]


NAMES = ["../up", "/etc/x", "a/b", "a\\b", 'quo"te', "<script>", ".hidden", "nul\0", "", "x" * 101]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_s_name_is_a_plain_file_name(name: str) -> None:
    from ssl_cls import config
    from ssl_cls.errors import UserError

    with pytest.raises(UserError, match="the recipe is wrong"):
        config.parse(config.Recipe, RECIPE.replace("name: tiny", f"name: {ascii(name)!s}", 1), "recipe")
