"""Where a data set's videos and labels come from, and how they become frames and clips."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adafocus.recipe.section import Fraction, Positive, Rate, Section


class Videos(Section):
    """What is known of a data set's videos; counts are the published ones."""

    train: Positive
    val: Positive
    missing: Fraction = 0.1
    """Share of a split's listed videos that may be missing or unreadable."""
    seconds: Rate | None = None
    """Mean length, to tell beforehand how much disk the frames take; None if they are there."""
    rate: Rate = 30
    """Mean number of frames per second, likewise."""
    gigabytes: Rate | None = None
    """Disk that the videos themselves take, where they are downloaded or unpacked."""


class ManualSource(Section):
    """Videos and annotations that a person puts on disk, because they are given on request."""

    kind: Literal["manual"]
    homepage: str
    """Where to ask for the data."""
    archives: tuple[str, ...] = ()
    """Archives to put into ``archives/``, where the videos come so; a pattern such as ``videos-??``
    stands for the parts of one, in the order of their names. The videos themselves may be put into
    ``videos/`` instead."""
    strip: Annotated[int, Field(ge=0)] = 0
    """Leading folders to take off the names in the archives."""


class YoutubeSource(Section):
    """Videos that the annotations list by their id on YouTube, downloaded by yt-dlp.

    Those that are in ``videos/`` already are not downloaded. The annotation files are put on disk
    by a person.
    """

    kind: Literal["youtube"]
    homepage: str
    """Where the annotation files are to be had."""
    url: str = "https://www.youtube.com/watch?v={id}"
    """Where a video is, on YouTube or on another site that yt-dlp knows."""


class Download(Section):
    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArchiveSource(Section):
    """Videos and annotations that can be downloaded."""

    kind: Literal["archive"]
    archives: Annotated[tuple[tuple[Download, ...], ...], Field(min_length=1)]
    """Archives of videos, each in one or more parts."""
    strip: Annotated[int, Field(ge=0)] = 0
    """Leading folders to take off the names in the archives."""
    annotations: dict[str, Download] = {}
    """Annotation files by name."""


class FolderSource(Section):
    """One's own videos, wherever they lie; `adafocus new-dataset` writes such a recipe."""

    kind: Literal["folder"]
    videos: str
    """Folder of the videos, which stay there."""
    labels: str
    """CSV with the columns ``video,split,labels``, see `TableFile`."""


class GenerateSource(Section):
    """The demo's roaming digits, see `adafocus.data.digits`."""

    kind: Literal["generate"]
    train: Positive
    val: Positive
    frames: Positive
    """Length of each video."""
    visible: Positive
    """Frames, on end, in which the digit is in sight."""
    size: Positive
    """Height and width of each video in pixels."""
    digit: Positive
    """Height and width of the digit in pixels."""
    fragments: Annotated[int, Field(ge=0)]
    """Moving pieces of other digits in each video."""
    backgrounds: Positive
    """Textures shared by all videos."""
    seed: int = 0

    @model_validator(mode="after")
    def _visible_within_frames(self) -> Self:
        if self.visible > self.frames:
            raise ValueError(f"visible must be at most frames, {self.frames}")
        return self


class AnnotationFiles(Section):
    """Files of one form, relative to the data set's ``annotations`` folder."""

    positions: str | None = None
    """CSV of where the truth is in every frame (`adafocus.data.digits`), where it is known."""

    @property
    def files(self) -> list[str]:
        """What has to be there, whoever brings it."""
        named = self.model_dump(exclude={"format", "separator", "positions"})
        return [file for file in named.values() if file is not None]


class SplitFiles(AnnotationFiles):
    """The authors' form: ``video,frames,label[,label...]`` or ``video frames label``."""

    format: Literal["split_files"]
    train: str
    val: str
    classes: str
    separator: Literal[",", " "] = ","


class ActivityNetFiles(AnnotationFiles):
    """ActivityNet's JSON; videos are called ``v_`` and their id, as in the organisers' archives."""

    format: Literal["activitynet"]
    file: str
    classes: str | None = None
    """One class a line, for the order of the logits; alphabetical if not given."""


class FcvidFiles(AnnotationFiles):
    """FCVID's list of ``video train|test`` and its table of zeros and ones, line by line alike."""

    format: Literal["fcvid"]
    splits: str
    labels: str
    classes: str


class ListedFiles(AnnotationFiles):
    """A list of videos per split, and one of classes, as the organisers give them.

    ``kinetics``: CSV files, of which the listed classes are used; videos are called as in the
    public archives, ``{youtube_id}_{start:06d}_{end:06d}``. ``something_v1``: ``id;label`` and a
    list of labels, which are numbered in alphabetical order, as in the published models.
    ``something_v2``: JSON lists of ``id`` and ``template``, and the labels' indices. ``ucf101``:
    ``class/video.avi`` and perhaps the class's number; videos are called as there, in folders.
    """

    format: Literal["kinetics", "something_v1", "something_v2", "ucf101"]
    train: str
    val: str
    classes: str


class HmdbFiles(AnnotationFiles):
    """HMDB51's lists, one of each class, of ``video.avi`` and 1 to train on it, 2 to validate and 0
    to do neither. Videos are in folders called as their classes."""

    format: Literal["hmdb51"]
    lists: str
    """Where a class's list is, ``{class}`` for its name."""
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Of the classes, by index."""

    @property
    def files(self) -> list[str]:
        return [self.lists.replace("{class}", name) for name in self.names]


class TableFile(AnnotationFiles):
    """One's own videos: a CSV with the columns ``video,split,labels``, labels joined by ``;``.

    Splits are ``train`` and ``val``; classes are in alphabetical order.
    """

    format: Literal["table"]
    file: str


Annotations = Annotated[
    SplitFiles | ActivityNetFiles | FcvidFiles | ListedFiles | HmdbFiles | TableFile,
    Field(discriminator="format"),
]


class Frames(Section):
    """How ffmpeg turns a video into frames."""

    height: Positive = 360
    """Frames are scaled to this height in pixels, keeping the aspect ratio, unless smaller."""
    quality: Annotated[int, Field(ge=2, le=31)] = 2
    """ffmpeg's JPEG quality scale: 2 is best, 31 is worst."""
    rate: Rate | None = None
    """Frames per second to keep; all frames if not given."""
    hardware: Literal["auto", "cuda", "qsv", "vaapi", "videotoolbox"] | None = None
    """What decodes the videos, where not the CPU; it must be there, but for ``auto``."""
    time_limit: Rate = 600
    """Seconds that one video may take; it fails if it takes longer."""
    shards: Positive = 8
    """Jobs that share the extraction."""
    pack: bool | None = None
    """Whether videos that are folders of JPEG files become one file each too, byte for byte, rather
    than being read where they are. If not given, they do where a data set has more than 10,000
    of them and none is read in place yet."""


class Augmentation(Section):
    """One multi-scale crop, as in TSN, and one flip per clip."""

    scales: tuple[Fraction, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
