# ruff: noqa: E501
"""The HLO parser: kernels, bytes and FLOP of a small program, computed by hand."""

import pytest

from jdance.bench import hlo

TEXT = """\
HloModule step, is_scheduled=true

%fused_slices (p0: f32[1000], p1: f32[8]) -> bf16[10] {
  %p0 = f32[1000]{0} parameter(0)
  %p1 = f32[8]{0} parameter(1)
  %whole = bf16[1000]{0} convert(%p0)
  ROOT %part = bf16[10]{0} slice(%whole), slice={[20:30]}
}

%fused_update (p0: f32[100,4], p1: f32[1,4], p2: s32[]) -> f32[100,4] {
  %p0 = f32[100,4]{1,0} parameter(0)
  %p1 = f32[1,4]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[100,4]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

%gemm (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {
  %p0 = bf16[64,32]{1,0} parameter(0)
  %p1 = bf16[32,16]{1,0} parameter(1)
  ROOT %dot = bf16[64,16]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[50])) -> (s32[], f32[50]) {
  %state = (s32[], f32[50]{0}) parameter(0)
  %x = f32[50]{0} get-tuple-element(%state), index=1
  %count = s32[] get-tuple-element(%state), index=0
  %y = f32[50]{0} copy(%x)
  ROOT %out = (s32[], f32[50]{0}) tuple(%count, %y)
}

%condition (state: (s32[], f32[50])) -> pred[] {
  %state = (s32[], f32[50]{0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (a: f32[1000]) -> f32[] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %c = f32[100,4]{1,0} parameter(2)
  %d = f32[1,4]{1,0} parameter(3)
  %e = s32[] parameter(4)
  %f = bf16[64,32]{1,0} parameter(5)
  %w = bf16[32,16]{1,0} parameter(6)
  %image = bf16[2,8,8,3]{3,2,1,0} parameter(7)
  %filter = bf16[4,3,3,3]{3,2,1,0} parameter(8)
  %slices = bf16[10]{0} fusion(%a, %b), kind=kLoop, calls=%fused_slices, metadata={op_name="jit(step)/net/slice"}
  %update = f32[100,4]{1,0} fusion(%c, %d, %e), kind=kLoop, calls=%fused_update
  %product = bf16[64,16]{1,0} fusion(%f, %w), kind=kCustom, calls=%gemm
  %conv = (bf16[2,4,4,4]{3,2,1,0}, u8[0]{0}) custom-call(%image, %filter), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %start = (s32[], f32[50]{0}) tuple(%e, %b)
  %loop = (s32[], f32[50]{0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %sum-start = (f32[1000]{0}, f32[1000]{0}) all-reduce-start(%a), replica_groups={}
  %sum = f32[1000]{0} all-reduce-done(%sum-start)
  ROOT %out = f32[] constant(0)
}
"""


@pytest.fixture
def kernels():
    return {kernel.name: kernel for kernel in hlo.parse(TEXT).kernels}


def test_kernels_of_the_program(kernels):
    assert list(kernels) == ["slices", "update", "product", "conv", "y", "sum-start"]
    program = hlo.parse(TEXT)
    assert program.while_loops == 1 and program.conditionals == 0


def test_bytes_of_slices(kernels):
    assert kernels["slices"].bytes == 10 * 4 + 10 * 2 and kernels["slices"].source.endswith("slice")
    assert kernels["slices"].wide_bytes == 10 * 4


def test_bytes_of_in_place_updates(kernels):
    assert kernels["update"].bytes == 16 + 4 + 16


def test_matmuls_and_convolutions(kernels):
    assert kernels["product"].flop == 2 * 64 * 32 * 16 and kernels["product"].wide_flop == 0
    assert kernels["product"].kind == "matmul"
    assert kernels["conv"].flop == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
    assert kernels["conv"].bytes == 2 * (2 * 8 * 8 * 3 + 4 * 27 + 2 * 4 * 4 * 4)
    assert kernels["conv"].kind == "convolution"


def test_loop_bodies_count_per_iteration(kernels):
    assert kernels["y"].runs == 7 and kernels["y"].bytes == 7 * 2 * 50 * 4


def test_collectives(kernels):
    assert kernels["sum-start"].kind == "collective" and kernels["sum-start"].bytes == 2 * 4000


def test_text_without_an_entry():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("")
