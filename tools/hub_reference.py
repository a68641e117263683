"""What huggingface_hub and httpx make of environment variables, ids and NO_PROXY, for test/model/hub_reference.test.ts.

    python tools/hub_reference.py > test/fixtures/hub.json      # huggingface_hub 1.33, httpx 0.28
"""

import json
import os
import subprocess
import sys

from huggingface_hub import __version__
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

HOME = "/home/ward"
ENVIRONMENTS = [
    {},
    {"HF_HOME": "/data/hf"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "$SCRATCH/hf", "SCRATCH": "/scratch"},
    {"HF_HOME": "${SCRATCH}/hf", "SCRATCH": "/scratch"},
    {"HF_HOME": "$NOT_THERE/hf"},
    {"XDG_CACHE_HOME": "/xdg"},
    {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/data/hf"},
    {"HF_HUB_CACHE": "/cache"},
    {"HF_HUB_CACHE": "~/cache", "HF_HOME": "/data/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/old"},
    {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/cache"},
    {"TRANSFORMERS_CACHE": "/transformers"},
    {"HF_ENDPOINT": "https://hub.example"},
    {"HF_ENDPOINT": "https://hub.example/"},
    {"HF_ENDPOINT": "https://hub.example//"},
    {"HF_ENDPOINT": "http://hub.example:8080/path/"},
    *({"HF_HUB_OFFLINE": value} for value in ["1", "true", "TRUE", "Yes", "on", "0", "no", "false", "2", ""]),
    {"TRANSFORMERS_OFFLINE": "1"},
    {"TRANSFORMERS_OFFLINE": "on", "HF_HUB_OFFLINE": "0"},
    {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": ""},
    {"HF_TOKEN": "hf_a"},
    {"HF_TOKEN": " hf_a\r\n"},
    {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "yes"},
    {"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"},
]
CODE = """
import json, huggingface_hub.constants as c
from huggingface_hub.utils import get_token_to_send
print(json.dumps({"cache": c.HF_HUB_CACHE, "endpoint": c.ENDPOINT, "offline": c.HF_HUB_OFFLINE, "token": get_token_to_send(None)}))
"""
IDS = [
    "BiMediX/BiMediX-Bi", "gpt2", "a", "a/b", "A_1/b.c-d_e", "_a/b_", "x" * 96, "x" * 97, "x" * 96 + "/" + "y" * 96,
    "x/" + "y" * 97, "", "/", "a/", "/a", "a/b/c", "datasets/a/b", "a--b", "a/b--c", "a..b", "../a", "./a", "-a/b", "a/-b",
    "a-/b", "a/b-", ".a", "a.", "a/b.", "a.git", "a/b.git", "a b", "a/b c", "a\\b", "C:\\x", "~/x", "a@b", "a:b", "caf\u00e9/x",
    "\u0646\u0645\u0648\u0630\u062c", "a/b\n", "a%2Fb", "a/b#c", "http://a/b",
]  # fmt: skip
PROXY = "http://proxy.example:3128"
URLS = [
    "https://huggingface.co/x", "http://huggingface.co/x", "https://cdn.huggingface.co/x", "https://nothuggingface.co/x",
    "http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://10.1.2.3/v1", "http://[::1]:8000/v1",
    "https://llm.ward.example/v1", "https://llm.ward.example:8443/v1",
]  # fmt: skip
PROXIES = [
    {},
    {"HTTP_PROXY": PROXY},
    {"HTTPS_PROXY": PROXY},
    {"http_proxy": PROXY},
    {"https_proxy": PROXY},
    {"ALL_PROXY": PROXY},
    {"all_proxy": PROXY, "HTTPS_PROXY": "http://other.example:80"},
    {"HTTPS_PROXY": PROXY, "https_proxy": ""},
    {"HTTPS_PROXY": PROXY, "https_proxy": "http://lower.example:1"},
    {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"},
    {"HTTPS_PROXY": "proxy.example:3128"},
    *(
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": value}
        for value in [
            "*", "huggingface.co", ".huggingface.co", "HuggingFace.co", "localhost", "127.0.0.1", "localhost,127.0.0.1,::1",
            " huggingface.co , ward.example ", "ward.example:8443", "llm.ward.example", "10.1.2.3", "https://huggingface.co",
            "all://huggingface.co", "", ",", "face.co",
        ]  # fmt: skip
    ),
    {"HTTPS_PROXY": PROXY, "NO_PROXY": "*", "no_proxy": ""},
    {"HTTPS_PROXY": PROXY, "NO_PROXY": "", "no_proxy": "huggingface.co"},
]
PROXY_CODE = """
import json, sys, httpx
client = httpx.Client()
def proxy(url):
    pool = client._transport_for_url(httpx.URL(url))._pool
    url = getattr(pool, "_proxy_url", None)
    return url and f"{url.scheme.decode()}://{url.host.decode()}:{url.port}"
print(json.dumps([proxy(url) for url in json.loads(sys.argv[1])]))
"""


def run(code: str, env: dict[str, str], *arguments: str):
    base = {"HOME": HOME, "PATH": os.environ["PATH"]}
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], env={**base, **env}, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def is_valid(name: str) -> bool:
    try:
        validate_repo_id(name)
        return True
    except HFValidationError:
        return False


json.dump(
    {
        "huggingface_hub": __version__,
        "home": HOME,
        "environments": [{"env": env, **run(CODE, env)} for env in ENVIRONMENTS],
        "ids": {name: is_valid(name) for name in IDS},
        "urls": URLS,
        "proxies": [{"env": env, "chosen": run(PROXY_CODE, env, json.dumps(URLS))} for env in PROXIES],
    },
    sys.stdout,
    indent=1,
)
print()
