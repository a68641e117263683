"""lm-evaluation-harness's hf backend on the CPU beside `bimedix eval`; one JSON line on stdout. Run:

    python bench/peer_lm_eval.py speed MODEL DATA SHOTS BATCH EVERY    questions a second in bfloat16, on every EVERY-th question
    python bench/peer_lm_eval.py answers MODEL DATA DTYPE LIMIT        the chosen options of the first LIMIT questions a task
"""
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from lm_eval_offline import HFLM, SUBJECTS, evaluate, use_local_data  # noqa: E402

logging.disable(logging.WARNING)
TASKS = [f"mmlu_{subject}" for subject in SUBJECTS]
SIZES = dict(zip(TASKS, (265, 144, 173, 100, 272, 135)))


def speed(model, data, shots, batch, every):
    use_local_data(data)
    lm = HFLM(pretrained=model, dtype="bfloat16", device="cpu", batch_size=int(batch))
    score = lm._loglikelihood_tokens
    spent = []

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = score(*args, **kwargs)
        spent.append(time.perf_counter() - start)
        return result

    # Weights are read from the disk when each expert is first used: that is not part of the speed.
    score([(("", ""), list(range(1000, 1512)), [5])], disable_tqdm=True)
    lm._loglikelihood_tokens = timed
    samples = {task: list(range(0, size, int(every))) for task, size in SIZES.items()}
    evaluate(lm, TASKS, num_fewshot=int(shots), samples=samples, bootstrap_iters=0)
    questions = sum(map(len, samples.values()))
    return {"questions": questions, "questions_per_s": questions / sum(spent)}


def answers(model, data, dtype, limit):
    use_local_data(data)
    lm = HFLM(pretrained=model, dtype=dtype, device="cpu", batch_size=8)
    tasks = [*TASKS, *(f"{task}_ar" for task in TASKS), "medqa_4options", "medmcqa", "pubmedqa"]
    results = evaluate(lm, tasks, num_fewshot=0, limit=int(limit), bootstrap_iters=0)
    chosen = {}
    for task, samples in results["samples"].items():
        lists = [[ll for ll, _ in s["filtered_resps"]] for s in sorted(samples, key=lambda s: s["doc_id"])]
        chosen[task] = [lls.index(max(lls)) for lls in lists]
    return chosen


print(json.dumps({"speed": speed, "answers": answers}[sys.argv[1]](*sys.argv[2:])))
