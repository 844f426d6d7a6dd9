"""GPUs by their published figures: what a plan assumes of a machine that is not there.

Every rate is that of dense matrices: data sheets print the double beside it, which holds for matrices with
half of their weights zero.
"""

from dataclasses import dataclass

from videomar.errors import ParamsError

_GPUS_PER_NODE = 8
_NETWORK_GB_S = 50.0
"""Of one GPU between nodes: 400 Gbit/s, the usual network card for each GPU of such nodes."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Published figures of a kind of GPU."""

    name: str
    bfloat16_tflops: float | None
    """Dense matrix products in bfloat16, sums in float32, 10^12 operations a second; None: has no such."""
    tf32_tflops: float | None
    """The same in TF32, which products of float32 use where it exists, see `compute.device`."""
    float32_tflops: float
    """The same in all 24 bits of float32."""
    memory_gb: float
    """As printed, read as 10^9 bytes. The driver reports up to 7 % more, and 0.5 GB goes to CUDA itself."""
    bandwidth_gb_s: float
    """Of its memory, 10^9 bytes a second."""
    link_gb_s: float
    """To another GPU of the same node, one direction: NVLink, or PCI Express without it."""
    source: str
    """Document of the vendor that the figures stand in."""

    def tflops(self, precision: str) -> float:
        """Rate of matrix products in a format of `train.precision`; of float32 where bfloat16 is missing."""
        if precision == "bfloat16" and self.bfloat16_tflops is not None:
            return self.bfloat16_tflops
        return self.tf32_tflops or self.float32_tflops


GPUS = {
    "b200": Gpu(
        "NVIDIA B200 (HGX, 1000 W)", 2250, 1100, 75, 180, 7700, 900, "NVIDIA HGX data sheet; Blackwell brief"
    ),
    "h200": Gpu("NVIDIA H200 SXM", 989, 494.5, 67, 141, 4800, 450, "NVIDIA H200 data sheet"),
    "h100": Gpu("NVIDIA H100 SXM", 989, 494.5, 67, 80, 3350, 450, "NVIDIA H100 data sheet"),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 756, 378, 51, 80, 2000, 64, "NVIDIA H100 PCIe product brief"),
    "a100-80": Gpu("NVIDIA A100 SXM 80 GB", 312, 156, 19.5, 80, 2039, 300, "NVIDIA A100 data sheet"),
    "a100-40": Gpu("NVIDIA A100 SXM 40 GB", 312, 156, 19.5, 40, 1555, 300, "NVIDIA A100 data sheet"),
    "l40s": Gpu("NVIDIA L40S", 362, 183, 91.6, 48, 864, 32, "NVIDIA L40S data sheet"),
    "l4": Gpu("NVIDIA L4", 121, 60, 30.3, 24, 300, 32, "NVIDIA L4 data sheet"),
    "a10": Gpu("NVIDIA A10", 125, 62.5, 31.2, 24, 600, 32, "NVIDIA A10 data sheet"),
    "5090": Gpu(
        "NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8, 32, 1792, 64, "NVIDIA RTX Blackwell whitepaper"
    ),
    "4090": Gpu(
        "NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6, 24, 1008, 32, "NVIDIA Ada whitepaper, appendix A"
    ),
    "3090": Gpu("NVIDIA GeForce RTX 3090", 71, 35.6, 35.6, 24, 936, 32, "NVIDIA Ampere GA102 whitepaper"),
    "t4": Gpu("NVIDIA T4", None, None, 8.1, 16, 320, 16, "NVIDIA T4 data sheet"),
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal GPUs, eight in a node."""

    kind: str
    count: int

    @property
    def gpu(self) -> Gpu:
        """Figures of each GPU."""
        return GPUS[self.kind]

    @property
    def link_gb_s(self) -> float:
        """Rate at which each GPU exchanges with the others, one direction: that of the slowest link."""
        inside = self.gpu.link_gb_s
        return inside if self.count <= _GPUS_PER_NODE else min(inside, _NETWORK_GB_S)

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}"


def parse_fleet(text: str) -> Fleet:
    """Read `KIND` or `KIND:COUNT`, such as `h100:8`.

    Raises:
        ParamsError: the kind is unknown, or the count is no number above 0.
    """
    kind, colon, number = text.strip().lower().partition(":")
    kind = kind.removeprefix("rtx").strip("-_ ")
    if kind == "a100":
        raise ParamsError("--gpu: got a100, expected a100-40 or a100-80: it exists with 40 and 80 GB")
    if kind not in GPUS:
        raise ParamsError(f"--gpu: got {text}, expected KIND:COUNT with a kind of {', '.join(GPUS)}")
    if colon and not (number.isascii() and number.isdigit() and 0 < int(number) <= 100_000):
        raise ParamsError(f"--gpu: got {text}, expected a whole number above 0 after the colon, as in h100:8")
    return Fleet(kind, int(number) if colon else 1)
