"""What ONNX Runtime's bnb4 quantizer makes of some values: test/fixtures/nf4.json. Run: python tools/make_nf4_fixture.py

And double quantisation of magnitudes, in torch, by bitsandbytes' definition (create_dynamic_map and blocks of 256 in its functional.py;
the library itself needs a GPU build): the 256 levels, and for each magnitude the value of the nearest.
The values are normal, with a block of zeros, one of equal values, and one on and beside the borders between codes.
"""
import json
from pathlib import Path

import numpy as np
import torch
from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

BLOCK, NF4 = 64, 1
rng = np.random.default_rng(0)
values = rng.standard_normal((8, BLOCK)).astype(np.float32)
values[1] = 0
values[2] = -0.3
borders = np.array([0.03979014977812767, 0.3893125355243683, 0.6427869200706482, 0.8614784181118011, 0.5016634166240692,
                    0.2035212516784668, 0.2920137718319893, 0.1202552504837513, -0.33967943489551544, -0.13791173323988914,
                    -0.045525018125772476, -0.23460740596055984, -0.6106329262256622, -0.4599952697753906, -0.8480964004993439], np.float32)
values[3, :45] = np.concatenate([borders, np.nextafter(borders, np.float32(2)), np.nextafter(borders, np.float32(-2))])
values[3, 45] = 1
codes, absmax = np.zeros(values.size // 2, np.uint8), np.zeros(len(values), np.float32)
quantize_matmul_bnb4(codes, values, absmax, BLOCK, NF4, BLOCK, len(values))

def levels():
    found = [0.0, 1.0]
    for decade in range(7):
        borders = torch.linspace(0.1, 1, 2 ** decade + 1)
        middles = 10.0 ** (decade - 6) * (borders[:-1] + borders[1:]) / 2.0
        found += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(found))


code = levels()
magnitudes = torch.from_numpy(np.abs(rng.standard_normal(600)).astype(np.float32)) * 0.1
offset = magnitudes.mean()
parts = []
for part in (magnitudes - offset).split(256):
    scale = part.abs().max()
    parts.append(code[(part[:, None] / scale - code).abs().argmin(1)] * scale + offset)
double = {"absmax_code": code.tolist(), "magnitudes": magnitudes.tolist(), "dequantised": torch.cat(parts).tolist()}
fixture = {**double, "values": values.ravel().astype(float).tolist(), "codes": codes.tolist(), "absmax": absmax.astype(float).tolist()}
(Path(__file__).parent.parent / "test/fixtures/nf4.json").write_text(json.dumps(fixture) + "\n")
