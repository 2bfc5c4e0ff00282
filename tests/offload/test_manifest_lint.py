"""Every hole is refused, and a manifest without holes is not."""

import copy

import pytest

from cutset.errors import ConfigError
from cutset.offload.enclave.lint import RULES, lint, lint_file

PROGRAM = ["python3", "-m", "cutset.cli"]
RUN = [*PROGRAM, "generate", "/model", "--mode", "masked+verified"]
SOUND = {
    "loader": {
        "entrypoint": "file:{{ gramine.libos }}",
        "log_level": "error",
        "argv": ["python3", "-m", "cutset.cli", "generate", "/model", "--mode", "masked+verified"],
        "env": {"LD_LIBRARY_PATH": "/lib:/libs", "HOME": {"value": "/"}},
    },
    "sys": {"stack": {"size": "2M"}},
    "fs": {
        "root": {"type": "tmpfs"},
        "mounts": [
            {"path": "/lib", "uri": "file:{{ gramine.runtimedir() }}"},
            {"path": "/model", "uri": "file:/srv/models/story"},
            {"path": "/app/numpy", "uri": "file:/usr/lib/python3/dist-packages/numpy"},
            {"type": "tmpfs", "path": "/tmp"},
            {"type": "encrypted", "path": "/private", "uri": "file:private", "key_name": "private"},
            {"type": "untrusted_shm", "path": "/dev/shm/cutset", "uri": "dev:/dev/shm/cutset/"},
        ],
    },
    "sgx": {
        "debug": False,
        "enclave_size": "1G",
        "max_threads": 8,
        "remote_attestation": "dcap",
        "allowed_files": ["dev:/dev/shm/cutset/"],
        "trusted_files": [
            "file:{{ gramine.libos }}",
            {"uri": "file:{{ gramine.runtimedir() }}/"},
            "file:/usr/lib/python3.11/",
            {"uri": "file:/srv/models/story/model.safetensors", "sha256": "0" * 64},
        ],
    },
}


def changed(path, value):
    """SOUND with one value set; `path` ends in + to append to a list, None as a value removes the key."""
    document = copy.deepcopy(SOUND)
    *parents, last = path.removesuffix("+").split(".")
    table = document
    for name in parents:
        table = table.setdefault(name, {})
    if path.endswith("+"):
        table.setdefault(last, []).append(value)
    elif value is None:
        del table[last]
    else:
        table[last] = value
    return document


HOLES = [
    ("loader.insecure__use_cmdline_argv", True, "insecure__use_cmdline_argv"),
    ("loader.insecure__use_host_env", True, "insecure__use_host_env"),
    ("loader.insecure__disable_aslr", True, "insecure__disable_aslr"),
    ("sgx.insecure__rpc_thread_num", 8, "insecure__rpc_thread_num"),
    ("sys.insecure__allow_eventfd", True, "insecure__allow_eventfd"),
    ("fs.insecure__keys.default", "ffeeddccbbaa99887766554433221100", "insecure__keys"),
    ("loader.argv", None, "must list the arguments"),
    ("loader.argv", [], "must list the arguments"),
    ("loader.argv_src_file", "file:argv", "argv_src_file"),
    ("loader.argv+", "--trust-remote-code", "trust_remote_code"),
    ("loader.argv", ["cutset", "--mode", "plain"], "--mode plain"),
    ("loader.argv", ["cutset", "--mode=verified"], "--mode verified"),
    ("loader.argv", ["cutset", "--mode=masked"], "--mode masked believes"),
    ("loader.argv+", "--mode=masked", "--mode masked believes"),
    ("loader.argv+", "--mode=", "use masked+verified"),
    ("loader.argv+", "--prompt=a secret", "--prompt stands in the manifest"),
    ("loader.argv", [*RUN, "--prompt", "a secret"], "--prompt stands in the manifest"),
    ("loader.argv", [*RUN, "--prompt", "-"], "--prompt reads what the host types"),
    ("loader.argv", [*RUN, "--prompt", "a secret"], "stdout, which is the host's"),
    ("loader.argv", [*RUN, "--prompt-file", "/private/p"], "stdout, which is the host's"),
    ("loader.argv", [*RUN, "--prompt-file", "/model/p"], "is a file that the host reads"),
    ("loader.argv", [*RUN, "--prompt-file", "/private/../dev/shm/cutset/p"], "is a file that the host reads"),
    ("loader.argv", [*RUN, "--prompt-file", "/dev/stdin"], "is a file that the host reads"),
    ("loader.argv", [*RUN, "--output", "/dev/shm/cutset/answer"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output=/dev/shm/cutset/answer"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "/dev/stdout"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "/dev/fd/1"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "/proc/self/fd/1"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "/model/answer"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "dev/stderr"], "is where the host reads"),
    ("loader.argv", [*RUN, "--output", "/private/a", "--output", "/model/a"], "is where the host reads"),
    ("loader.argv", [*RUN, "--json", "/model/x.json"], "is where the host reads"),
    ("loader.argv", [*RUN, "--key", "/model/client.key"], "is a file that the host reads"),
    ("loader.argv", [*RUN, "--prompt-file", "-"], "--prompt-file - reads what the host types"),
    ("loader.argv", [*RUN, "--prompt-file=-"], "--prompt-file - reads what the host types"),
    ("loader.argv", [*RUN, "-o/model/answer"], "is where the host reads"),
    ("loader.argv+", "--pads-same-host", "--pads-same-host lets one party"),
    ("loader.argv", [*RUN, "--pads-from", "shm://pads"], "is on the accelerator's machine"),
    ("loader.argv", [*RUN, "--pads-from=ipc:///tmp/pads"], "is on the accelerator's machine"),
    ("loader.argv+", "--prefix-caching", "reveals which beginnings"),
    ("loader.argv", [*PROGRAM, "serve", "/model", "--host", "0.0.0.0"], "serve (on 0.0.0.0) speaks HTTP in clear"),
    ("loader.argv", [*PROGRAM, "serve", "/model", "--host=::"], "serve (on ::) speaks HTTP in clear"),
    ("loader.argv", [*PROGRAM, "serve", "/model"], "serve (on 127.0.0.1) speaks HTTP in clear"),
    ("loader.argv", ["/app/bin/cutset", "serve", "/model"], "speaks HTTP in clear"),
    ("loader.argv", ["python3", "-mcutset", "serve", "/model"], "speaks HTTP in clear"),
    ("loader.argv", ["python3", "-Imcutset.cli", "chat", "/model"], "chat reads and writes"),
    ("loader.argv", ["/bin/sh", "-c", "cutset serve /model --host 0.0.0.0"], "-c runs a text that isn't checked"),
    ("loader.argv", ["bash", "-lc", "cutset serve /model"], "-lc runs a text that isn't checked"),
    ("loader.argv", ["python3", "-Ic", "import cutset"], "-Ic runs a text that isn't checked"),
    ("loader.argv", [*PROGRAM, "serve", "/model", "--api-key", "abc"], "--api-key stands in the manifest"),
    ("loader.argv", [*PROGRAM, "serve", "/model", "--api-key=abc"], "--api-key stands in the manifest"),
    ("loader.argv", [*PROGRAM, "serve", "/model", "--api-key-file", "/model/k"], "is a file that the host reads"),
    ("loader.argv", [*PROGRAM, "chat", "/model"], "chat reads and writes what the host sees"),
    ("loader.argv", [*PROGRAM, "chat", "/model", "--system", "a secret"], "--system stands in the manifest"),
    ("loader.argv", [*PROGRAM, "tokenize", "/model", "a secret"], "tokenize reads and writes"),
    ("loader.env.CUTSET_API_KEY", "abc", "CUTSET_API_KEY: a secret in the manifest"),
    ("loader.env.CUTSET_API_KEY", {"value": "abc"}, "CUTSET_API_KEY: a secret in the manifest"),
    ("loader.env.HF_TOKEN", "hf_abc", "HF_TOKEN: a secret in the manifest"),
    ("loader.env.API_KEYS", "abc", "API_KEYS: a secret in the manifest"),
    ("loader.env.AWS_ACCESS_KEY_ID", "abc", "AWS_ACCESS_KEY_ID: a secret in the manifest"),
    ("loader.env.DB_PASS", "abc", "DB_PASS: a secret in the manifest"),
    ("loader.env.CUTSET_KEY", "/model/client.key", "is a file that the host reads"),
    ("loader.env.PATH", {"passthrough": True}, "comes from the host"),
    ("loader.env.LD_PRELOAD", "/libs/x.so", "LD_PRELOAD"),
    ("loader.env_src_file", "file:env", "env_src_file"),
    ("loader.log_level", "debug", "log_level"),
    ("sgx.debug", True, "sgx.debug"),
    ("sgx.debug", "false", "sgx.debug"),
    ("sgx.enable_stats", True, "enable_stats"),
    ("sgx.vtune_profile", True, "vtune_profile"),
    ("sgx.profile.enable", "main", "profile"),
    ("sgx.allowed_files+", "file:/srv/models/", "is not measured"),
    ("sgx.allowed_files+", "dev:/dev/shm/", "is not measured"),
    ("sgx.allowed_files+", "file:/tmp/", "is not measured"),
    ("sgx.file_check_policy", "allow_all_but_log", "file_check_policy"),
    ("sgx.trusted_files", [], "nothing is measured"),
    ("sgx.trusted_files+", "file:/usr/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/usr/lib/x86_64-linux-gnu/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/lib/x86_64-linux-gnu/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/etc/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/home/somebody/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/root/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:/", "far more than the program needs"),
    ("sgx.trusted_files+", "file:./", "far more than the program needs"),
    ("sgx.trusted_files+", "file:../", "far more than the program needs"),
    ("sgx.trusted_files+", {"uri": "file:/tmp/model.safetensors"}, "anybody may write"),
    ("sgx.trusted_files+", "file:/var/tmp/x/", "anybody may write"),
    ("sgx.trusted_files+", "dev:/dev/shm/x", "is not a file: URI"),
    ("fs.mounts+", {"path": "/usr", "uri": "file:/usr"}, "far more than the program needs"),
    ("fs.mounts+", {"path": "/home", "uri": "file:/home/somebody"}, "far more than the program needs"),
    ("fs.mounts+", {"path": "/x", "uri": "file:/usr/lib/../../etc"}, "far more than the program needs"),
    ("fs.mounts+", {"path": "/tmp", "uri": "file:/tmp"}, "anybody may write"),
    ("fs.mounts+", {"type": "chroot", "path": "/dev/nvidia0", "uri": "dev:/dev/nvidia0"}, "a device of the host"),
    ("fs.mounts+", {"type": "strange", "path": "/x", "uri": "file:/srv/x"}, "'strange' is not a kind"),
    ("fs.mounts+", {"type": "untrusted_shm", "path": "/y", "uri": "dev:/dev/shm/y"}, "2 untrusted_shm mounts"),
    ("fs.root", {}, "fs.root"),
    ("fs.root", {"uri": "file:/"}, "fs.root"),
    ("fs.root", {"uri": "file:."}, "fs.root"),
    ("sgx.allowed_ioctls+", {"request_code": 1}, "allowed_ioctls"),
    ("sgx.enclave_size", "3G", "not a power of two"),
    ("sgx.enclave_size", None, "must be given"),
    ("sgx.enclave_size", "0", "not a power of two"),
    ("sgx.enclave_size", "9" * 5000, "must be given"),
    ("sgx.remote_attestation", None, "remote_attestation"),
]


def test_a_sound_manifest_passes():
    assert lint(SOUND) == []


@pytest.mark.parametrize(("path", "value", "message"), HOLES)
def test_a_hole_is_refused(path, value, message):
    found = lint(changed(path, value))
    assert any(message in problem for problem in found), found
    assert all("\n" not in problem for problem in found)


@pytest.mark.parametrize(
    "more",
    [
        ["--prompt-file", "/private/prompt.txt", "--output", "/private/answer.txt"],
        ["--prompt-file=/private/prompt.txt", "--output=/private/x/../answer.txt", "--json", "/private/figures"],
        ["--prompt-file", "private/p", "--output", "/tmp/in-the-enclave", "--key", "/private/client.key"],
        ["--pads-from", "tcp://pads:1", "--pads-key", "/private/pads.pub", "--mode=local"],
    ],
)
def test_arguments_that_give_nothing_away(more):
    assert lint(changed("loader.argv", [*RUN, *more])) == []
    document = changed("loader.env.CUTSET_KEY", "/private/client.key")
    document["loader"]["env"] |= {"CUTSET_ACCELERATOR_KEY": "/model/accelerator.pub", "CUTSET_THREADS": "1"}
    assert lint(document) == []


def test_the_whole_of_shared_memory_is_refused():
    document = changed("sgx.allowed_files", ["dev:/dev/shm/"])
    document["fs"]["mounts"][-1]["uri"] = "dev:/dev/shm/"
    assert any("mount the one directory of the ring" in problem for problem in lint(document))


@pytest.mark.parametrize("uri", ["dev:/dev/shm/..", "dev:/dev/shm/../", "dev:/dev/shm/../x", "dev:/dev/shm/."])
def test_a_way_out_of_shared_memory_is_refused(uri):
    document = changed("sgx.allowed_files", [uri])
    document["fs"]["mounts"][-1]["uri"] = uri
    assert any("untrusted_shm of" in problem for problem in lint(document))


def test_paths_that_can_t_be():
    for path in ("sgx.trusted_files+", "sgx.allowed_files+"):
        lint(changed(path, "file:/srv/a\0b"))
    lint(changed("fs.mounts+", {"path": "/x", "uri": "file:/srv/a\0b"}))


def test_every_rule_refuses_something():
    refused = {rule for rule in RULES for path, value, _ in HOLES if list(rule(changed(path, value)))}
    assert refused == set(RULES)


def test_permissions_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("cutset.offload.enclave.lint.SHARED", ())
    open_to_all = tmp_path / "everybodys"
    open_to_all.mkdir()
    document = changed("sgx.trusted_files+", f"file:{open_to_all}/")
    before = lint(document)  # pytest's own directory may lie in one that everybody may write to
    open_to_all.chmod(0o777)
    assert any("anybody may write" in problem for problem in lint(document))
    assert before in ([], lint(document))


# Values of the wrong type come from broken or hostile files: a line each, never a traceback.
@pytest.mark.parametrize("value", [None, 0, "text", [], [1, "x", None], {}, {"x": {"y": 1}}, True])
def test_nonsense(value):
    for name in ("loader", "fs", "sgx", "sys"):
        assert isinstance(lint({**SOUND, name: value}), list)
    for name in ("loader.env", "loader.argv", "fs.mounts", "fs.root", "sgx.trusted_files", "sgx.allowed_files"):
        document = changed(name, 0)
        parent, _, last = name.partition(".")
        document[parent][last] = value
        assert isinstance(lint(document), list)
    assert lint({})


# A published manifest of the kind that this is about, in its own words shortened.
HISTORICAL = """
loader.entrypoint = "file:{{ gramine.libos }}"
loader.insecure__use_cmdline_argv = true
loader.env.PATH = { passthrough = true }
fs.mounts = [
  { path = "/usr", uri = "file:/usr" }, { path = "/etc", uri = "file:/etc" },
  { path = "/tmp", uri = "file:/tmp" }, { path = "/home/user", uri = "file:/home/user" },
]
sgx.debug = true
sgx.enclave_size = "6G"
sgx.trusted_files = ["file:/usr/lib/x86_64-linux-gnu/"]
sgx.allowed_files = ["file:/data1/", "file:/tmp/", "file:project/"]
"""


def test_a_historical_manifest(tmp_path):
    path = tmp_path / "client.manifest.template"
    path.write_text(HISTORICAL)
    found = lint_file(path)
    assert len(found) == 15, found


def test_files_that_are_no_manifest(tmp_path):
    path = tmp_path / "x"
    for text in ("sgx = [", "x = " + "9" * 5000):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not valid TOML"):
            lint_file(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="can't be read"):
        lint_file(path)
