"""lm-evaluation-harness's questions a second: bench/peer_lm_eval.py MODEL DATA SHOTS LIMIT BATCH [DTYPE]. One JSON line."""
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from lm_eval_offline import HFLM, SUBJECTS, evaluate, use_local_data  # noqa: E402

logging.disable(logging.INFO)
model, data, shots, limit, batch = sys.argv[1:6]
dtype = sys.argv[6] if len(sys.argv) > 6 else "bfloat16"
use_local_data(data)
lm = HFLM(pretrained=model, dtype=dtype, device="cpu", batch_size=int(batch))
spent = []
inner = lm._loglikelihood_tokens


def timed(*args, **kwargs):
    start = time.perf_counter()
    result = inner(*args, **kwargs)
    spent.append(time.perf_counter() - start)
    return result


# Weights are read from the disk at the first use of each expert: not part of the speed.
warm = list(range(1000, 1000 + 512))
inner([(("", ""), warm, [5])], disable_tqdm=True)
lm._loglikelihood_tokens = timed
tasks = [f"mmlu_{subject}" for subject in SUBJECTS]
results = evaluate(lm, tasks, num_fewshot=int(shots), limit=int(limit), bootstrap_iters=0)
questions = sum(n["effective"] for n in results["n-samples"].values())
print(json.dumps({"questions": questions, "seconds": sum(spent), "questions_per_s": questions / sum(spent)}))
