"""What a folder would send, file by file."""

from pathlib import Path

from flm.publish.hub import Repository


def files_of(folder: Path) -> list[Path]:
    """All files, by their paths in the folder."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def listing(folder: Path, repository: Repository) -> str:
    """A line a file, with its size, and the sum."""
    sizes = {path.as_posix(): (folder / path).stat().st_size for path in files_of(folder)}
    lines = [f"{size:>12,}  {name}" for name, size in sizes.items()]
    private = "private " if repository.private else ""
    total = f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files, for the {private}{repository.kind}"
    return "\n".join([*lines, f"{total} {repository.name}; nothing was sent"])
