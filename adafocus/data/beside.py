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
    *(".md5", ".sha1", ".sha256", ".sfv", ".sig", ".asc", ".bak", ".tmp", ".temp"),
    *(".part", ".ytdl", ".crdownload", ".aria2", ".download", ".filepart"),
    # what cameras and discs keep of their films
    *(".thm", ".lrv", ".ifo", ".bup", ".cpi", ".bdm", ".mpl"),
)
"""How such files end."""
PREVIEWS = (".webp", ".gif", ".apng")
"""How pictures end that may move: beside a film of the same name they are of it."""
FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "#snapshot", "~snapshot", "$recycle.bin", "lost+found"),
    *("system volume information", "__macosx", "network trash folder", "temporary items"),
}
"""Folders of file servers and operating systems."""


def is_service(name: str) -> bool:
    """Whether a file or folder is hidden, or of a file server or operating system."""
    return name.startswith(".") or name.lower() in FOLDERS


def is_no_video(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def previews(names: Iterable[str]) -> set[str]:
    """Those of a folder's files that are previews of others."""
    names = list(names)
    found = {name for name in names if name.lower().endswith(PREVIEWS)}
    if not found:
        return found
    films = {splitext(name)[0] for name in names if name not in found and not is_no_video(name)}
    return {name for name in found if splitext(name)[0] in films}
