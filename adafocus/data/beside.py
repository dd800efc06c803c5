"""What lies beside videos and is none, told by names alone, so that it is cheap to look again."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import splitext

SUFFIXES = (
    # subtitles and lists
    *(".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".sup", ".sbv", ".smi", ".lrc", ".ttml"),
    *(".m3u", ".m3u8", ".pls", ".cue", ".edl", ".nfo", ".url", ".lnk", ".webloc"),
    # pictures
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg", ".ico", ".psd", ".aae", ".xmp"),
    # sound
    *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".opus", ".oga", ".wma", ".mka", ".aif", ".aiff"),
    # texts, tables, code and weights
    *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".html", ".htm", ".pdf", ".log", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".rtf"),
    *(".ppt", ".pptx", ".py", ".ipynb", ".sh", ".bat", ".exe", ".db", ".sqlite"),
    *(".npy", ".npz", ".pkl", ".pt", ".pth", ".h5", ".hdf5", ".mat", ".parquet"),
    # archives, checksums, and what is not whole
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".torrent"),
    *(".md5", ".sha1", ".sha256", ".sha512", ".sfv", ".sig", ".asc", ".bak", ".tmp", ".temp"),
    *(".part", ".ytdl", ".crdownload", ".aria2", ".download", ".filepart"),
    *(".opdownload", ".partial", ".!ut", "zone.identifier"),
    # what programs that cut films keep of their work
    *(".wlmp", ".mswmm", ".kdenlive", ".prproj", ".aep", ".fcpxml", ".drp", ".insprj", ".osp"),
    # what cameras and discs keep of their films
    *(".thm", ".lrv", ".ifo", ".bup", ".cpi", ".bdm", ".mpl"),
)
"""How such files end."""
PREVIEWS = (".webp", ".gif", ".apng")
"""How pictures end that may move: beside a film of the same name they are of it."""
FILMS = {
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe"),
    *(".ts", ".mts", ".m2ts", ".m2v", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2"),
    *(".ogv", ".ogg", ".ogm", ".mxf", ".dv", ".rm", ".rmvb", ".wtv", ".nut", ".ivf", ".y4m"),
    *(".mjpeg", ".mjpg", ".h264", ".264", ".hevc", ".h265", ".265", ".vc1", ".obu", ".mod", ".tod"),
}
"""How films end; others are films too, unless one of these has their name."""
FOLDERS = {
    *(
        "@eadir",
        "#recycle",
        "@recycle",
        "@tmp",
        "#snapshot",
        "~snapshot",
        "$recycle.bin",
        "lost+found",
    ),
    *("system volume information", "__macosx", "network trash folder", "temporary items"),
    *("@recently-snapshot", "@sharebin", "recycler", "found.000"),
}
"""Folders of file servers and operating systems."""


def is_service(name: str) -> bool:
    """Whether a file or folder is hidden, or of a file server or operating system."""
    return name.startswith(".") or name.lower() in FOLDERS or name == "Icon\r"


def is_no_video(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def companions(names: Iterable[str]) -> set[str]:
    """Those of a folder's files that lie beside a film of the same name and are of it: pictures
    that move, and whatever ends otherwise than a film, such as a program's notes or a backup."""
    of = {name: splitext(name) for name in names if not is_no_video(name)}
    told = {stem for stem, suffix in of.values() if suffix.lower() in FILMS}
    films = {stem for stem, suffix in of.values() if suffix.lower() not in PREVIEWS}
    return {
        name
        for name, (stem, suffix) in of.items()
        if suffix.lower() not in FILMS and stem in (films if suffix.lower() in PREVIEWS else told)
    }
