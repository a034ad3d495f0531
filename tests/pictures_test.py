"""The pictures of the documentation are what docs/pictures/draw makes, and each is shown by some page."""
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"


class Pictures(unittest.TestCase):
    def test_are_what_the_command_makes(self):
        program = os.environ.get("OFFRAMP_PROGRAM", str(ROOT / "build/offramp"))
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([PICTURES / "draw", directory], check=True, env={**os.environ, "OFFRAMP_BINARY": program})
            made = {path.name: path.read_text() for path in Path(directory).iterdir()}
        shown = {path.name: path.read_text() for path in PICTURES.glob("*.svg")}
        self.assertEqual(sorted(made), sorted(shown))
        for name, text in made.items():
            self.assertTrue(text == shown[name], f"docs/pictures/{name} is out of date: run docs/pictures/draw")

    def test_are_shown(self):
        pages = "".join(page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
        for picture in PICTURES.glob("*.svg"):
            self.assertIn(f"pictures/{picture.name})", pages)


if __name__ == "__main__":
    unittest.main()
