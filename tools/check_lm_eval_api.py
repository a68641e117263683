"""Whether lm-evaluation-harness gets through the API what it gets directly: `local-completions` beside `hf`, sample by sample.

Run, with `bimedix serve --dtype fp32` at URL: python tools/check_lm_eval_api.py DATA URL MODEL_DIR NAME [LIMIT]
Prints, a task, both accuracies and the largest distance of two log-likelihoods; ends with 1 when one is above 1e-3.
"""
import sys

from lm_eval_offline import HFLM, evaluate, use_local_data
from lm_eval.models.openai_completions import LocalCompletionsAPI

data, url, directory, name, *rest = sys.argv[1:]
limit = int(rest[0]) if rest else 50
use_local_data(data)
tasks = ["medqa_4options", "mmlu_clinical_knowledge", "mmlu_clinical_knowledge_ar", "medmcqa"]
options = {"limit": limit, "log_samples": True, "bootstrap_iters": 0, "batch_size": 8}
# The harness puts <s> in front where the tokenizer says so with hf, and only where it is told to with an API.
bos = {"add_bos_token": True, "batch_size": 8}
api = LocalCompletionsAPI(
    base_url=f"{url}/v1/completions", model=name, tokenizer=directory, tokenizer_backend="huggingface", max_length=1023, **bos
)
results = {
    "api": evaluate(api, tasks, **options),
    "hf": evaluate(HFLM(directory, dtype="float32", device="cpu", **bos), tasks, **options),
}
worst = 0.0
for task in results["hf"]["samples"]:
    distance, choices = 0.0, 0
    for one, other in zip(*(results[side]["samples"][task] for side in ("api", "hf"))):
        assert one["doc_hash"] == other["doc_hash"]
        for (a,), (b,) in zip(one["resps"], other["resps"]):
            distance = max(distance, abs(a[0] - b[0]))
            choices += 1
    accuracy = [results[side]["results"][task]["acc,none"] for side in ("api", "hf")]
    print(f"{task}: accuracy {accuracy[0]:.4f} and {accuracy[1]:.4f}, {choices} log-likelihoods within {distance:.1e}")
    worst = max(worst, distance)
sys.exit(worst > 1e-3)
