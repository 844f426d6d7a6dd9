"""Small films of every codec and container that the packaged ffmpeg writes, and of every oddity we know of.

Each sample is a list of commands, nearly all of ffmpeg; the last writes the film. A film lasts a second: 24
pictures that differ from each other and from their mirror images.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.videos import run_ffmpeg

_SOURCE = "testsrc2=size={size}:rate={rate}:duration={seconds},rotate=t/2,gblur=1"


def _film(size: str = "160x112", rate: int = 24, seconds: float = 1, filters: str = "") -> str:
    """An input of ffmpeg that plays without a file."""
    source = _SOURCE.format(size=size, rate=rate, seconds=seconds)
    return f'-f lavfi -i "{source}{"," if filters else ""}{filters}"'


# Extension of a file, then the codecs that are put into it.
_CODECS = """
mp4   libx264 libx265 mpeg4 libxvid libaom-av1 libvpx-vp9 mjpeg mpeg2video mpeg1video png libopenjpeg
mov   libx264 libx265 mpeg4 prores_ks prores_aw dnxhd mjpeg qtrle png svq1 cinepak cfhd rpza h263p
mov   libopenjpeg ffv1 dxv r210 v210 v308 v408 v410 yuv4 huffyuv utvideo magicyuv mpeg2video avui tiff targa
avi   mpeg4 libxvid libx264 msmpeg4v2 msmpeg4 mjpeg ljpeg ffv1 huffyuv ffvhuff utvideo rawvideo cinepak
avi   msvideo1 zmbv png magicyuv cljr asv1 asv2 snow zlib wmv1 wmv2 libvpx targa jpegls mpeg2video mpeg1video
avi   flv libopenjpeg vc2 amv speedhq svq1
mkv   libx264 libx265 libvpx libvpx-vp9 libaom-av1 mpeg4 libxvid mpeg2video mpeg1video libtheora ffv1
mkv   prores_ks mjpeg snow vc2 utvideo huffyuv rawvideo wmv2 dnxhd h263p cinepak msmpeg4 magicyuv v210 flv
webm  libvpx libvpx-vp9 libaom-av1
ts    libx264 libx265 mpeg2video mpeg1video mpeg4 vc2
m2ts  libx264 libx265 mpeg2video
mpg   mpeg1video mpeg2video libx264
vob   mpeg2video
flv   flv libx264 libx265 libaom-av1 libvpx-vp9 flashsv flashsv2
f4v   libx264
wmv   wmv1 wmv2 msmpeg4 mpeg4 libx264 mjpeg
ogv   libtheora libvpx
3gp   mpeg4 libx264
3g2   libx264 mpeg4
gif   gif
mxf   mpeg2video libx264 dnxhd ffv1 libopenjpeg
nut   ffv1 libx264 rawvideo mpeg4 libvpx-vp9 huffyuv snow
rm    rv10 rv20
swf   flv mjpeg
y4m   wrapped_avframe
ivf   libvpx libvpx-vp9 libaom-av1
h264  libx264
hevc  libx265
m1v   mpeg1video
m2v   mpeg2video
m4v   libx264
mjpeg mjpeg
dnxhd dnxhd
drc   vc2
obu   libaom-av1
ismv  libx264
wtv   mpeg2video
apng  apng
"""
_OPTIONS = {
    "libx264": "-threads 1",
    "libx265": "-x265-params log-level=none:pools=none:frame-threads=1",
    "libxvid": "-bf 2",
    "libaom-av1": "-cpu-used 8 -usage realtime",
    "libvpx": "-cpu-used 8 -deadline realtime -b:v 2M",
    "libvpx-vp9": "-cpu-used 8 -deadline realtime -b:v 2M",
    "dnxhd": "-profile:v dnxhr_lb -pix_fmt yuv422p -vf scale=256:144",
    "mjpeg": "-q:v 2 -strict -1",
    "ljpeg": "-strict -1",
    "amv": "-strict -1",
    "mpeg4": "-q:v 2 -bf 2",
    "libtheora": "-q:v 8",
    "avui": "-vf scale=720:486 -strict -2",
    "snow": "-strict -2",
    "jpegls": "-strict -2",
    "ffv1": "-strict -2",
    "cinepak": "-vf scale=96:64",
    "wrapped_avframe": "-pix_fmt yuv420p",
    "vc2": "-pix_fmt yuv420p",
}
_LOSSY = ("mpeg1video", "mpeg2video", "h263p", "flv", "wmv1", "wmv2", "msmpeg4", "msmpeg4v2", "rv10", "rv20")

_ODD_SIZE = _film("161x113")
_FIELDS = _film(rate=48, filters="interlace=lowpass=off")
_H264 = "-c:v libx264 -pix_fmt yuv420p -threads 1"
_BASE = f"{_film()} {_H264} -bf 2 -g 12 base.mp4"  # what the samples below are copied from
_STILL = "-f lavfi -i color=red:size=320x240:rate=25:duration=0.04"
_STILL_CODEC = "-c:v:0 mjpeg -strict -1 -c:v:1 libx264 -pix_fmt yuv420p -threads 1"
_UNEVEN = "-vf \"select='lt(n,8)+not(mod(n,3))'\" -fps_mode vfr"
_BT2020 = "-color_primaries bt2020 -colorspace bt2020nc -pix_fmt yuv420p10le"
_HALF = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*X/W'"
_DISPLAYS = {
    "none": "-display_rotation 0",
    "90": "-display_rotation 90",
    "180": "-display_rotation 180",
    "270": "-display_rotation 270",
    "hflip": "-display_hflip",
    "vflip": "-display_vflip",
    "90_hflip": "-display_rotation 90 -display_hflip",
    "270_hflip": "-display_rotation 270 -display_hflip",
}
_COPIED = f"{_BASE} && -i base.mp4 -c copy"
_SHIFTED = f"{_BASE} && -itsoffset -0.5 -i base.mp4 -c copy -avoid_negative_ts disabled"
_OTHER = _film(filters="hue=h=90")  # a second that follows another
_FIELDS_DV = _film("720x576", 50, 0.4, "interlace=lowpass=off") + " -c:v dvvideo -flags +ildct"
_PALETTE = f"{_film()} -vf split[a][b];[a]palettegen[p];[b][p]paletteuse"
_BT709 = f"{_film(filters='scale=out_color_matrix=bt709')} -colorspace bt709 -color_primaries bt709"
_BT601 = f"{_film(filters='scale=out_color_matrix=bt601')} -colorspace smpte170m -color_primaries smpte170m"

# Name, then commands separated by `&&`. The extension is that of the last file.
_ODD: dict[str, str] = {
    **{
        f"display_{name}.{kind}": f"{_BASE} && {flags} -i base.mp4 -c copy out.{kind}"
        for kind in ("mp4", "mov", "mkv")
        for name, flags in _DISPLAYS.items()
    },
    **{
        f"display_{name}_sar.mp4": f"{_film()} -vf setsar=4/3 {_H264} a.mp4"
        f" && {flags} -i a.mp4 -c copy out.mp4"
        for name, flags in _DISPLAYS.items()
    },
    **{
        f"sar_{name}.{kind}": f"{_film()} -vf setsar={ratio} {options} out.{kind}"
        for name, ratio, kind, options in (
            ("wide", "16/11", "mp4", _H264),
            ("narrow", "8/9", "mp4", _H264),
            ("wide", "16/11", "mkv", _H264),
            ("wide", "16/11", "ts", _H264),
            ("wide", "16/11", "avi", "-c:v mpeg4 -q:v 2"),
            ("wide", "2/1", "mov", "-c:v prores_ks"),
            ("wide", "4/3", "webm", "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime"),
            ("wide", "16/11", "mpg", "-aspect 16:9 -c:v mpeg2video -q:v 2"),
            ("wide", "4/3", "mxf", "-c:v mpeg2video -q:v 2"),
            ("wide", "4/3", "flv", _H264),
        )
    },
    **{
        f"odd_size_{codec}.{kind}": f"{_ODD_SIZE} -c:v {codec} {_OPTIONS.get(codec, '')} {options} out.{kind}"
        for codec, kind, options in (
            ("libx264", "mp4", "-pix_fmt yuv444p"),
            ("libx265", "mkv", "-pix_fmt yuv444p"),
            ("libvpx-vp9", "webm", "-pix_fmt yuv420p"),
            ("libaom-av1", "mp4", "-pix_fmt yuv420p"),
            ("mjpeg", "avi", ""),
            ("ffv1", "mkv", ""),
            ("png", "mov", ""),
            ("mpeg4", "avi", ""),
            ("mpeg2video", "mpg", "-q:v 2"),
            ("libtheora", "ogv", ""),
            ("rawvideo", "avi", "-pix_fmt bgr24"),
            ("huffyuv", "avi", "-pix_fmt rgb24"),
        )
    },
    **{f"tiny_{size}.mp4": f"{_film(size)} {_H264} out.mp4" for size in ("16x16", "32x24", "48x32", "96x8")},
    **{
        f"b_frames.{kind}": f"{_film()} {_H264} -bf 3 -g 12 -x264-params open-gop=1 out.{kind}"
        for kind in ("mp4", "mov", "mkv", "avi", "ts", "flv", "nut", "m2ts", "mxf", "wmv", "h264")
    },
    "b_frames_h265.mkv": f"{_film()} -c:v libx265 {_OPTIONS['libx265']}:bframes=4 -pix_fmt yuv420p out.mkv",
    "b_frames_mpeg2.avi": f"{_film()} -c:v mpeg2video -bf 2 -q:v 2 out.avi",
    "b_frames_packed.avi": f"{_film()} -c:v libxvid -bf 2 -q:v 2 -vtag DIVX -flags +cgop out.avi",
    "b_frames_mpeg4.mp4": f"{_film()} -c:v mpeg4 -bf 3 -q:v 2 out.mp4",
    "interlaced_mpeg2.ts": f"{_FIELDS} -c:v mpeg2video -flags +ildct+ilme -q:v 2 out.ts",
    "interlaced_mpeg2.mpg": f"{_FIELDS} -c:v mpeg2video -flags +ildct+ilme -q:v 2 out.mpg",
    "interlaced_h264.mp4": f"{_FIELDS} {_H264} -flags +ildct+ilme -x264-params tff=1 out.mp4",
    "interlaced_h264_bff.mkv": f"{_FIELDS} {_H264} -flags +ildct+ilme -x264-params bff=1 out.mkv",
    "interlaced_h264.ts": f"{_FIELDS} {_H264} -flags +ildct+ilme -x264-params tff=1 -bf 2 out.ts",
    "interlaced_prores.mov": f"{_FIELDS} -c:v prores_ks -flags +ildct out.mov",
    "interlaced_dv.dv": f"{_FIELDS_DV} out.dv",
    "interlaced_dv.avi": f"{_FIELDS_DV} out.avi",
    "dv_50.mov": f"{_film('720x576', 25, 0.4)} -pix_fmt yuv422p -c:v dvvideo out.mov",
    **{
        f"vfr.{kind}": f"{_film()} {_UNEVEN} {options} out.{kind}"
        for kind, options in (
            ("mp4", _H264),
            ("mov", _H264),
            ("mkv", _H264),
            ("ts", _H264),
            ("flv", _H264),
            ("webm", "-c:v libvpx -b:v 2M -cpu-used 8 -deadline realtime"),
            ("wmv", "-c:v wmv2 -q:v 2"),
            ("avi", "-c:v mpeg4 -q:v 2"),  # empty packets stand for pictures that are missing
            ("nut", "-c:v ffv1"),
        )
    },
    "vfr_b_frames.mp4": f"{_film()} {_UNEVEN} {_H264} -bf 3 out.mp4",
    "held_ten_seconds.mp4": f"{_film()} -vf \"setpts='PTS+gte(N,12)*10/TB'\" -fps_mode vfr {_H264} out.mp4",
    "one_picture_in_five_seconds.mp4": f"{_film()} -vf setpts=N*5/TB -fps_mode vfr {_H264} out.mp4",
    "rate_1000.mkv": f"{_film()} -vf setpts=N*0.001/TB -enc_time_base 1/1000 -fps_mode vfr {_H264} out.mkv",
    "rate_120.mp4": f"{_film(rate=120, seconds=0.3)} {_H264} out.mp4",
    "rate_ntsc.mp4": f"{_film()} -vf setpts=N*1001/30000/TB -r 30000/1001 {_H264} out.mp4",
    "negative_times.mp4": f"{_SHIFTED} out.mp4",
    "negative_times.mkv": f"{_SHIFTED} out.mkv",
    "negative_times.ts": f"{_SHIFTED} -copyts out.ts",
    "negative_cts.mp4": f"{_COPIED} -movflags negative_cts_offsets out.mp4",
    "no_edit_list.mp4": f"{_COPIED} -use_editlist 0 out.mp4",
    "edit_list_cut.mp4": f"{_BASE} && -ss 0.7 -i base.mp4 -c copy out.mp4",
    "edit_list_cut.mov": f"{_BASE} && -ss 0.3 -i base.mp4 -c copy out.mov",
    "edit_list_cut.mkv": f"{_BASE} && -ss 0.7 -i base.mp4 -c copy out.mkv",
    "edit_list_delay.mp4": f"{_BASE} && -itsoffset 1.5 -i base.mp4 -f lavfi -i sine=duration=3"
    " -map 0:v -map 1:a -c:v copy out.mp4",
    **{
        f"offset_hour.{kind}": f"{_COPIED} -output_ts_offset 3600 out.{kind}"
        for kind in ("mp4", "mkv", "ts", "flv", "nut", "wmv")
    },
    **{
        f"{name}.{kind}": f"{_film()} {options} {first} a.{kind} && {_OTHER} {options} {second} b.{kind}"
        f" && {join}.{kind}"
        for kind, options in (("ts", _H264), ("mpg", "-c:v mpeg2video -q:v 2"))
        for name, first, second in (
            ("jump_hour", "", "-output_ts_offset 3600"),
            ("jump_back", "-output_ts_offset 60", ""),
            ("restart", "", ""),
        )
        for name, join in (
            (name, f"join a.{kind} b.{kind} out"),
            # The muxer pushes times that fall forward by ticks.
            (f"{name}_copied", f"-i concat:a.{kind}|b.{kind} -c copy -copyts out"),
        )
    },
    "wrap.ts": f"{_COPIED} -copyts -muxdelay 0 -output_ts_offset 95443.2 out.ts",
    "still_before.mp4": f"{_STILL} {_film()} -map 0 -map 1 {_STILL_CODEC} out.mp4",
    "still_before.mov": f"{_STILL} {_film()} -map 0 -map 1 {_STILL_CODEC} out.mov",
    "still_before.mkv": f"{_STILL} {_film()} -map 0 -map 1 {_STILL_CODEC} out.mkv",
    "still_before.avi": f"{_STILL} {_film()} -map 0 -map 1 {_STILL_CODEC} out.avi",
    "cover_before.mp4": f"{_STILL} {_film()} -map 0 -map 1 {_STILL_CODEC}"
    " -disposition:v:0 attached_pic out.mp4",
    **{
        f"small_before.{kind}": f"{_film('64x64')} {_film()} -map 0 -map 1 {_H264} out.{kind}"
        for kind in ("mp4", "mov", "mkv", "ts", "avi", "nut")
    },
    "small_after.mp4": f"{_film()} {_film('64x64')} -map 0 -map 1 {_H264} out.mp4",
    "short_before.mkv": f"{_film('320x240', seconds=0.3)} {_film()} -map 0 -map 1 {_H264} out.mkv",
    "small_before_mirrored.mp4": f"{_film('64x64')} {_film()} -map 0 -map 1 {_H264} a.mp4"
    " && -display_hflip:v:1 -i a.mp4 -map 0 -c copy out.mp4",
    "sound.mp4": f"{_film()} -f lavfi -i sine=duration=3 {_H264} out.mp4",
    "sound_first.mkv": f"-f lavfi -i sine=duration=1 {_film()} -map 0 -map 1 {_H264} out.mkv",
    "alpha_qtrle.mov": f"{_film(filters=_HALF)} -c:v qtrle -pix_fmt argb out.mov",
    "alpha_prores.mov": f"{_film(filters=_HALF)} -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le"
    " out.mov",
    "alpha_png.mov": f"{_film(filters=_HALF)} -c:v png -pix_fmt rgba out.mov",
    "alpha_ffv1.mkv": f"{_film(filters=_HALF)} -c:v ffv1 -pix_fmt bgra out.mkv",
    "alpha_utvideo.avi": f"{_film(filters=_HALF)} -c:v utvideo -pix_fmt gbrap out.avi",
    "alpha_vp9.webm": f"{_film(filters=_HALF)} -c:v libvpx-vp9 -pix_fmt yuva420p -cpu-used 8 out.webm",
    "hdr_pq.mp4": f"{_film()} -c:v libx264 {_BT2020} -color_trc smpte2084 out.mp4",
    "hdr_hlg.mkv": f"{_film()} -c:v libx265 {_OPTIONS['libx265']} {_BT2020} -color_trc arib-std-b67 out.mkv",
    "hdr_pq_vp9.webm": f"{_film()} -c:v libvpx-vp9 -cpu-used 8 {_BT2020} -color_trc smpte2084 out.webm",
    "hdr_pq_turned.mp4": f"{_film()} -c:v libx264 {_BT2020} -color_trc smpte2084 a.mp4"
    " && -display_rotation 90 -display_hflip -i a.mp4 -c copy out.mp4",
    **{
        f"{name}.{kind}": f"{_film()} -c:v {codec} {_OPTIONS.get(codec, '')} -pix_fmt {pixels} out.{kind}"
        for name, codec, pixels, kind in (
            ("ten_bit_h264", "libx264", "yuv420p10le", "mp4"),
            ("ten_bit_422", "libx264", "yuv422p10le", "mov"),
            ("ten_bit_h265", "libx265", "yuv420p10le", "mkv"),
            ("twelve_bit_h265", "libx265", "yuv420p12le", "mp4"),
            ("ten_bit_vp9", "libvpx-vp9", "yuv420p10le", "webm"),
            ("ten_bit_av1", "libaom-av1", "yuv420p10le", "mp4"),
            ("ten_bit_ffv1", "ffv1", "yuv444p10le", "mkv"),
            ("sixteen_bit_ffv1", "ffv1", "rgb48le", "mkv"),
            ("sixteen_bit_png", "png", "rgb48be", "mov"),
            ("grey_h264", "libx264", "gray", "mp4"),
            ("grey_ffv1", "ffv1", "gray", "mkv"),
            ("grey_ten_bit", "ffv1", "gray10le", "avi"),
            ("grey_mjpeg", "mjpeg", "gray", "avi"),
            ("grey_png", "png", "gray", "mov"),
            ("rgb_h264", "libx264rgb", "rgb24", "mkv"),
            ("rgb_h264", "libx264rgb", "rgb24", "mp4"),
            ("rgb_vp9", "libvpx-vp9", "gbrp", "webm"),
            ("rgb_raw", "rawvideo", "rgb555le", "avi"),
            ("uyvy_raw", "rawvideo", "uyvy422", "mov"),
            ("full_range_h264", "libx264", "yuvj420p", "mp4"),
            ("full_range_mjpeg", "mjpeg", "yuvj444p", "avi"),
            ("colour_422_h264", "libx264", "yuv422p", "mkv"),
            ("colour_410_ffv1", "ffv1", "yuv410p", "nut"),
            ("colour_411_ffv1", "ffv1", "yuv411p", "mkv"),
            ("colour_440_h264", "libx264", "yuv444p", "flv"),
        )
    },
    "palette_png.mov": f"{_PALETTE} -c:v png -pix_fmt pal8 out.mov",
    "palette_msrle.avi": f"{_PALETTE} -c:v msrle out.avi",
    "palette_smc.mov": f"{_PALETTE} -c:v smc out.mov",
    "palette_raw.avi": f"{_PALETTE} -c:v rawvideo -pix_fmt pal8 out.avi",
    "bt709.mp4": f"{_BT709} {_H264} -color_trc bt709 out.mp4",
    "bt709.webm": f"{_BT709} -c:v libvpx-vp9 -cpu-used 8 -color_trc bt709 -pix_fmt yuv420p out.webm",
    "bt601.mkv": f"{_BT601} {_H264} -color_trc smpte170m out.mkv",
    "fragments.mp4": f"{_COPIED} -movflags frag_keyframe+empty_moov out.mp4",
    "dash.mp4": f"{_COPIED} -movflags dash+frag_keyframe+empty_moov+default_base_moof out.mp4",
    "index_first.mov": f"{_COPIED} -movflags faststart out.mov",
    "live.mkv": f"{_COPIED} -live 1 out.mkv",
    "cluster_a_frame.mkv": f"{_COPIED} -cluster_time_limit 10 out.mkv",
    "hvc1.mp4": f"{_film()} -c:v libx265 {_OPTIONS['libx265']} -tag:v hvc1 -pix_fmt yuv420p out.mp4",
    "mirrored_exif.mov": f"{_film()} -c:v tiff a.mov && -display_hflip -i a.mov -c copy out.mov",
    **{
        f"display_by_codec_{name}.{kind}": f"{_COPIED} -bsf:v h264_metadata=display_orientation=insert:{turn}"
        f" out.{kind}"
        for name, turn, kind in (
            ("90", "rotate=90", "ts"),
            ("180", "rotate=180", "mp4"),
            ("hflip", "flip=horizontal", "mkv"),
            ("vflip", "flip=vertical", "flv"),
        )
    },
    "interlaced_mirrored.mp4": f"{_FIELDS} {_H264} -flags +ildct+ilme a.mp4"
    " && -display_hflip -i a.mp4 -c copy out.mp4",
    "alpha_mirrored.mov": f"{_film(filters=_HALF)} -c:v png -pix_fmt rgba a.mov"
    " && -display_rotation 90 -display_hflip -i a.mov -c copy out.mov",
    "vfr_turned.mp4": f"{_film()} {_UNEVEN} {_H264} a.mp4 && -display_rotation 270 -i a.mp4 -c copy out.mp4",
    "edit_list_turned.mp4": f"{_BASE} && -display_rotation 90 -ss 0.7 -i base.mp4 -c copy out.mp4",
    "odd_size_turned.mov": f"{_ODD_SIZE} -vf setsar=3/2 {_H264} -pix_fmt yuv444p a.mov"
    " && -display_rotation 90 -i a.mov -c copy out.mov",
    "ten_bit_turned.mkv": f"{_film()} {_H264} -pix_fmt yuv420p10le a.mkv"
    " && -display_rotation 180 -display_vflip -i a.mkv -c copy out.mkv",
    "palette_turned.mov": f"{_PALETTE} -c:v png -pix_fmt pal8 a.mov"
    " && -display_rotation 90 -i a.mov -c copy out.mov",
    **{
        f"sar_of_container.{kind}": f"{_film()} -vf setsar=8/9 {_H264} a.{kind}"
        f" && -i a.{kind} -c copy -aspect 2:1 out.{kind}"
        for kind in ("mp4", "mov", "mkv")
    },
    "timecode.mov": f"{_film()} {_H264} -timecode 01:00:00:00 out.mov",
    "size_changes.ts": f"{_film()} -c:v mpeg2video -q:v 2 a.ts && {_film('240x168')}"
    " -c:v mpeg2video -q:v 2 b.ts && -i concat:a.ts|b.ts -c copy out.ts",
    "one_frame.mp4": f"{_film()} -frames:v 1 {_H264} out.mp4",
    "two_frames.mkv": f"{_film()} -frames:v 2 {_H264} out.mkv",
    "intra_refresh.mp4": f"{_film()} {_H264} -x264-params intra-refresh=1:keyint=12 out.mp4",
    "cut_between_keys.ts": f"{_COPIED} a.ts && -i a.ts -c copy -ss 0.3 -copyinkf out.ts",
}


# What a player does to films of these names, as filters of ffmpeg, and why ffmpeg by itself does not.
_SHOWN = {
    "interlaced_": "bwdif=mode=send_frame:deint=interlaced",  # shows both fields at once
    "alpha_": "format=gbrap,premultiply=inplace=1,format=gbrp",  # leaves opacity out
    "alpha_vp9": "null",  # neither sees it: it is in a second stream
}


@dataclass(frozen=True, slots=True)
class MatrixFile:
    """One film to make."""

    name: str
    video: int
    """Which video stream of the file is the film, counted from 0."""
    filters: str
    """What a player does to it, as filters of ffmpeg."""
    commands: tuple[tuple[str, ...], ...]
    """Arguments of ffmpeg, or `join` and files whose bytes are joined. The last of all is the film's file."""

    def make(self, folder: Path) -> Path:
        """Write the film, and what it is made of, into an empty folder."""
        for command in self.commands:
            if command[0] == "join":
                parts = [(folder / name).read_bytes() for name in command[1:-1]]
                (folder / command[-1]).write_bytes(b"".join(parts))
            else:
                run_ffmpeg(folder, *command)
        return folder / self.commands[-1][-1]


def matrix_files() -> dict[str, MatrixFile]:
    """Return every file of the matrix by its name, as `libxvid.avi` or `display_90_sar.mp4`."""
    plain = {}
    for kind, *codecs in map(str.split, _CODECS.strip().splitlines()):
        for codec in codecs:
            options = _OPTIONS.get(codec, "-q:v 2" if codec in _LOSSY else "")
            more = "-mpegts_m2ts_mode 1" if kind == "m2ts" else "-plays 0" if kind == "apng" else ""
            plain[f"{codec}.{kind}"] = f"{_film()} -c:v {codec} {options} {more} out.{kind}"
    return {name: _matrix_file(name, commands) for name, commands in (plain | _ODD).items()}


def _matrix_file(name: str, commands: str) -> MatrixFile:
    filters = [filters for start, filters in _SHOWN.items() if name.startswith(start)]
    # mp4 and mov move a cover behind the film.
    behind = "_before" in name and not name.startswith("cover")
    parts = tuple(tuple(shlex.split(part)) for part in commands.split("&&"))
    return MatrixFile(name, int(behind), filters[-1] if filters else "null", parts)
