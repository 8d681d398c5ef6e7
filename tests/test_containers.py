"""Video containers: frame times, edit lists, variable frame rates, pixel aspect ratios."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from jdance.data import containers, sources, videos
from jdance.errors import UserError

MS = Fraction(1, 1000)
STEADY = [i / 25 for i in range(50)]
# 30 frames per second, then 10, as of phones in the dark.
VARIABLE = [i / 30 for i in range(30)] + [1.0 + i / 10 for i in range(30)]


def frame_image(number, size=(48, 64)):
    image = np.full((*size, 3), 20 + 3.5 * number, np.uint8)
    image[: size[0] // 4] = 250  # marks the top
    return image


def write(path, times, codec="libx264", unit=MS, rate=25, sar=None, container=None, **options):
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "10", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = unit
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_image(number), format="rgb24")
            frame.pts, frame.time_base = round(time / unit), unit
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def cut(source, path, seconds):
    """Cuts off the beginning without re-encoding, as `ffmpeg -ss` or a phone does."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(source)) as whole, av.open(str(path), "w", options=options) as file:
        stream = whole.streams.video[0]
        copy = file.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts -= round(seconds / stream.time_base)
                packet.dts -= round(seconds / stream.time_base)
                packet.stream = copy
                file.mux(packet)


def write_with_sound(path, times, seconds):
    """A video whose sound begins at 0."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = MS
        sound = file.add_stream("aac", rate=16000, layout="mono")
        packets = []
        for number in range(round(seconds * 16000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 16000, number * 1024
            packets += sound.encode(frame)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_image(number), format="rgb24")
            frame.pts, frame.time_base = round(time / MS), MS
            packets += stream.encode(frame)
        packets += [*sound.encode(), *stream.encode()]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)


def numbers(video):
    return [(float(frame.image[-8:].mean()) - 20) / 3.5 for frame in video]


@pytest.mark.parametrize(
    ("name", "times", "arguments"),
    [
        ("recorder.webm", VARIABLE,  # of a browser: neither duration nor frame rate
         {"codec": "libvpx-vp9", "rate": 1000, "container": {"live": "1"}, "cpu-used": "8"}),
        ("x.webm", VARIABLE, {"codec": "libvpx-vp9", "rate": 1000, "cpu-used": "8"}),
        ("x.mkv", VARIABLE, {"rate": 30, "bf": "3"}),
        ("x.mp4", VARIABLE, {"rate": 30, "unit": Fraction(1, 90000)}),
        ("x.mov", STEADY, {"unit": Fraction(1, 90000), "bf": "2"}),
        ("late.mkv", [5 + t for t in STEADY], {}),
        ("late.mp4", [5 + t for t in STEADY], {"unit": Fraction(1, 90000)}),
        ("x.avi", STEADY, {"codec": "mpeg4", "unit": Fraction(1, 25), "b": "4M"}),
        ("x.ts", STEADY, {"unit": Fraction(1, 90000), "bf": "2"}),
        ("x.flv", VARIABLE, {"rate": 30}),
        ("x.wmv", STEADY, {"codec": "mpeg4", "b": "4M"}),
        ("x.mpg", STEADY, {"codec": "mpeg2video", "unit": Fraction(1, 25), "b": "4M"}),
    ],
)  # fmt: skip
def test_times_come_from_the_frames(tmp_path, name, times, arguments):
    write(tmp_path / name, times, **arguments)
    video = videos.Video(tmp_path / name)
    frames = list(video)
    shown = np.array(times) - times[0]
    np.testing.assert_allclose([frame.time for frame in frames], shown, atol=2e-3)
    np.testing.assert_allclose(numbers(frames), np.arange(len(times)), atol=1.2)
    assert (video.count, video.problem, videos.describe_damage(tmp_path / name)) == (
        len(times),
        "",
        "",
    )
    assert video.fps == pytest.approx(30 if times is VARIABLE else 25, rel=0.02)
    # Two samples per second, of the whole video and a segment.
    np.testing.assert_allclose(
        videos.times(tmp_path / name, 2.0), np.arange(0, shown[-1], 0.5), atol=0.03
    )
    part = videos.times(tmp_path / name, 2.0, 1.0, 1.9)
    np.testing.assert_allclose(part, [1.0, 1.5], atol=0.03)
    found = [videos.frame_at(tmp_path / name, when) for when in part]
    expected = [frames[int(np.searchsorted(shown, when - 2e-3))].image for when in part]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_times_begin_with_the_sound(tmp_path, suffix, delay):
    path = tmp_path / f"x{suffix}"
    write_with_sound(path, [delay + time for time in STEADY], 3.0)
    info = containers.probe(path)
    np.testing.assert_allclose(info.times, np.array(STEADY) + delay, atol=2e-3)
    frames = list(videos.Video(path))
    np.testing.assert_allclose([frame.time for frame in frames], info.times, atol=2e-3)
    np.testing.assert_allclose(numbers(frames), range(50), atol=1.2)


def test_edit_lists_are_applied(tmp_path):
    write(tmp_path / "whole.mp4", STEADY, unit=Fraction(1, 90000), bf="3")
    cut(tmp_path / "whole.mp4", tmp_path / "cut.mp4", 0.6)
    video = videos.Video(tmp_path / "cut.mp4")
    np.testing.assert_allclose(numbers(video), np.arange(15, 50), atol=1.2)
    assert video.count == 35 and video.problem == ""
    assert videos.times(tmp_path / "cut.mp4", 2.0)[-1] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("name", "codec"), [("x.mkv", "libx264"), ("x.webm", "libvpx-vp9")])
def test_cuts_between_key_frames_start_at_the_next_one(tmp_path, name, codec):
    write(tmp_path / f"whole{name}", STEADY, codec=codec)
    with (
        av.open(str(tmp_path / f"whole{name}")) as whole,
        av.open(str(tmp_path / name), "w") as file,
    ):
        stream = whole.streams.video[0]
        copy = file.add_stream_from_template(stream)
        for packet in list(whole.demux(stream))[13:-1]:
            packet.stream = copy
            file.mux(packet)
    video = videos.Video(tmp_path / name)
    np.testing.assert_allclose(numbers(video), np.arange(20, 50), atol=1.2)
    assert video.count == 30 and video.problem == videos.describe_damage(tmp_path / name) == ""


@pytest.mark.parametrize(("sar", "width"), [((4, 3), 85), ((8, 9), 57), ((1, 1), 64)])
def test_pixels_become_square(tmp_path, sar, width):
    write(tmp_path / "x.mp4", STEADY[:3], unit=Fraction(1, 90000), sar=Fraction(*sar))
    video = videos.Video(tmp_path / "x.mp4")
    assert video.size == (48, width)
    assert [frame.image.shape for frame in video] == [(48, width, 3)] * 3


@pytest.mark.parametrize("matrix", [
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),  # rotations clockwise
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),  # mirrored, as of some cameras
])  # fmt: skip
def test_frames_come_upright(tmp_path, matrix):
    """As the display matrix says: x' = a x + c y, y' = b x + d y."""
    write(tmp_path / "x.mp4", STEADY[:3], unit=Fraction(1, 90000))
    stored = next(iter(videos.Video(tmp_path / "x.mp4"))).image
    stored[:, :20] //= 2  # no symmetry: the top is bright, the left is dark
    a, b, c, d = matrix
    data = bytearray((tmp_path / "x.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    one = 1 << 16
    assert struct.unpack(">i", data[at : at + 4]) == (one,)
    numbers = a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    data[at : at + 36] = struct.pack(">9i", *numbers)
    (tmp_path / "x.mp4").write_bytes(data)
    video = videos.Video(tmp_path / "x.mp4")
    image = next(iter(video)).image
    info = containers.probe(tmp_path / "x.mp4")
    y, x = np.indices(stored.shape[:2])
    across, down = a * x + c * y, b * x + d * y
    expected = np.zeros((np.ptp(down) + 1, np.ptp(across) + 1, 3), np.uint8)
    expected[down - down.min(), across - across.min()] = stored
    assert video.size == image.shape[:2] == expected.shape[:2]
    np.testing.assert_array_equal(containers.upright(stored, info), expected)
    bright = expected.mean(-1) > 240  # of the top, which is in the video itself
    assert image[bright].mean() > 240 and image[expected.mean(-1) < 60].mean() < 60


@pytest.mark.parametrize("name", ["x.mpg", "x.vob", "x.ts"])
def test_joined_recordings_continue(tmp_path, name):
    """Their time stamps start again: "cat a.mpg b.mpg", DVDs."""
    codec = {"codec": "mpeg2video", "b": "4M", "bf": "2"}
    for part in ("a", "b"):
        write(tmp_path / f"{part}{name}", STEADY[:25], unit=Fraction(1, 25), **codec)
    joined = tmp_path / name
    joined.write_bytes(b"".join((tmp_path / f"{p}{name}").read_bytes() for p in "ab"))
    info, video = containers.probe(joined), videos.Video(joined)
    shown = [frame.time for frame in video]
    np.testing.assert_allclose(shown, STEADY, atol=1e-3)
    np.testing.assert_allclose(info.times, STEADY, atol=1e-3)
    assert info.end == pytest.approx(2.0, abs=1e-3) and info.fps == pytest.approx(25)
    assert videos.times(joined, 2.0, 1.2) == pytest.approx([1.2, 1.72], abs=1e-3)


def test_truncated_files_are_damaged(tmp_path):
    write(tmp_path / "x.mkv", STEADY)
    data = (tmp_path / "x.mkv").read_bytes()
    (tmp_path / "x.mkv").write_bytes(data[: len(data) * 6 // 10])
    video = videos.Video(tmp_path / "x.mkv")
    count = len(list(video))
    assert 10 < count < 50 and f"{count} frames can be read" in video.problem
    assert "a part of it is missing" in videos.describe_damage(tmp_path / "x.mkv")
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "x.mkv").write_bytes((tmp_path / "x.mkv").read_bytes())
    source = sources.open_source(str(tmp_path / "in"))
    assert len(source.items) == 2 * len(videos.times(tmp_path / "x.mkv", 2.0))
    assert [name for name, _ in source.skipped] == ["a/x.mkv", "b/x.mkv"]


def test_playlists_do_not_open_other_files(tmp_path):
    write(tmp_path / "secret.mp4", STEADY[:3], unit=Fraction(1, 90000))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(sources.UserError, match=r"list\.mp4: (not a readable|holds no frame)"):
        videos.times(tmp_path / "list.mp4", 2.0)


def test_unknown_codec_raises(tmp_path):
    write(tmp_path / "x.mkv", STEADY[:3])
    data = (tmp_path / "x.mkv").read_bytes()
    (tmp_path / "x.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    with pytest.raises(sources.UserError, match=r"x\.mkv: not a readable video"):
        videos.Video(tmp_path / "x.mkv")


def test_unknown_hardware_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^--hardware_decoding=nothing: .*leave it out$"):
        containers.check_hardware("nothing")


def test_codecs_that_the_hardware_does_not_decode_are_decoded_by_the_cpu(tmp_path):
    """Devices without a driver: FFmpeg knows them, but not for this codec."""
    write(tmp_path / "x.avi", STEADY, codec="mpeg4", unit=Fraction(1, 25), b="4M")
    by_cpu = numbers(videos.Video(tmp_path / "x.avi"))
    assert by_cpu == numbers(videos.Video(tmp_path / "x.avi", hardware="drm")) and by_cpu
