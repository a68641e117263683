"""What ONNX Runtime's bnb4 quantizer makes of some values: test/fixtures/nf4.json. Run: python tools/make_nf4_fixture.py

The values are normal, with a block of zeros, one of equal values, and one on and beside the borders between codes.
"""
import json
from pathlib import Path

import numpy as np
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
fixture = {"values": values.ravel().astype(float).tolist(), "codes": codes.tolist(), "absmax": absmax.astype(float).tolist()}
(Path(__file__).parent.parent / "test/fixtures/nf4.json").write_text(json.dumps(fixture) + "\n")
