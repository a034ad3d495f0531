"""The rules of docs/design.md about the tree itself: what a folder may include, and what every header and file must be.

The table below is the rule; each folder may also include itself. A vendor's header appears in the folders named for it.
"""
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]

BELOW = {  # folder: those whose headers it may include
    "tensor": [],
    "comm": ["tensor"],
    "models": ["tensor", "comm"],
    "search": ["tensor", "models"],
    "optim": ["tensor", "comm", "models"],
    "parallel": ["tensor", "comm", "models", "optim"],
    "data": ["tensor"],
    "checkpoint": ["tensor", "comm", "models", "optim", "parallel", "data"],
    "trainer": ["tensor", "comm", "models", "search", "optim", "parallel", "checkpoint", "data"],
}
VENDORS = {  # what such an include begins with: folders (a nested one allows no more than itself)
    "mpi.h": ["comm"],
    "dnnl": ["tensor/cpu"],
    "oneapi/": ["tensor/cpu"],
    "yaml-cpp/": ["trainer"],
    "CLI/": ["trainer"],
    "sentencepiece": ["data"],
    "pcre2.h": ["data"],
    "utf8proc.h": ["data"],
    "nlohmann/": ["checkpoint", "data", "trainer"],
    "hdf5": ["checkpoint"],
    "H5FD": ["checkpoint"],
    "xxhash": ["checkpoint"],
}
NEEDS_NOTHING = ["parallel/schedule.h"]  # no header of ours
EVERYWHERE = ["fmt/", "omp.h", "immintrin.h"]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
# A path that exists on one machine only. (Written so that this line is none.)
MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|work|root)/[\w.]")


def sources():
    return sorted(path for folder in BELOW for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".cpp"))


def include_violations(path, text):
    """What is wrong with the includes of a file at `path`, relative to the root."""
    folder = path.parts[0]
    wrong = []
    for bracket, name in INCLUDE.findall(text):
        if bracket == '"':
            top = name.split("/")[0]
            if top not in BELOW:
                wrong.append(f'"{name}" does not begin with a folder of the tree')
            elif path.as_posix() in NEEDS_NOTHING:
                wrong.append(f'"{name}": this header includes nothing of ours')
            elif top != folder and top not in BELOW[folder]:
                wrong.append(f'"{name}": {folder} may include {", ".join(BELOW[folder]) or "no other folder"}')
            elif top == "tensor" and name.startswith("tensor/cpu/") and folder != "tensor":
                wrong.append(f'"{name}": the kernels of a device are called through tensor/ops.h')
            continue
        homes = next((folders for begin, folders in VENDORS.items() if name.startswith(begin)), None)
        if homes is not None:
            if not any(path.is_relative_to(home) for home in homes):
                wrong.append(f"<{name}> belongs to {', '.join(homes)}")
        elif ("/" in name or name.endswith(".h")) and not system_header(name):
            wrong.append(f"<{name}>: a vendor without a folder; name one in {pathlib.Path(__file__).name}")
    return wrong


def system_header(name):
    posix = ["fcntl.h", "unistd.h", "sched.h", "time.h", "sys/"]
    return any(name.startswith(begin) for begin in [*posix, *EVERYWHERE])


def opens_with_paragraph(text):
    """Two lines of comment at least, or one that is a sentence, before anything else."""
    comment = re.match(r"(?:[ \t]*//[^\n]*\n)+", text)
    return bool(comment) and len(comment.group(0)) > 40


class Layering(unittest.TestCase):
    def test_includes(self):
        wrong = [f"{path.relative_to(ROOT)}: {what}" for path in sources()
                 for what in include_violations(path.relative_to(ROOT), path.read_text())]
        self.assertEqual(wrong, [])
        self.assertGreater(len(sources()), 50)

    def test_every_folder_is_in_the_table(self):
        folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.h")}
        self.assertEqual(folders - set(BELOW) - {"tests", "bench"}, set())

    def test_headers_open_with_a_paragraph(self):
        self.assertEqual([str(path.relative_to(ROOT)) for path in sources() if path.suffix == ".h" and not opens_with_paragraph(path.read_text())], [])

    def test_design_names_the_rooms(self):
        design = (ROOT / "docs" / "design.md").read_text()
        self.assertEqual([folder for folder in BELOW if not re.search(rf"^{folder}/ ", design, re.M)], [])

    def test_no_path_of_one_machine(self):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
        if listed.returncode != 0:
            self.skipTest("not a git checkout")
        wrong = []
        for name in listed.stdout.decode().split("\0"):
            path = ROOT / name
            if not name or not path.is_file():
                continue
            content = path.read_bytes()
            if b"\0" in content:
                continue
            for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
                if MACHINE.search(line):
                    wrong.append(f"{name}:{number}: {line.strip()[:100]}")
        self.assertEqual(wrong, [])


class TheRulesFindWhatTheyAreFor(unittest.TestCase):
    def test_includes(self):
        for path, line, fine in (("tensor/ops.h", '#include "comm/group.h"', False),
                                 ("comm/group.h", '#include "tensor/ops.h"', True),
                                 ("data/dataset.h", '#include "comm/group.h"', False),
                                 ("parallel/schedule.h", '#include "parallel/simulate.h"', False),
                                 ("parallel/simulate.h", '#include "parallel/schedule.h"', True),
                                 ("models/mlp.cpp", '#include "tensor/cpu/kernels.h"', False),
                                 ("tensor/ops.cpp", "#include <dnnl.hpp>", False),
                                 ("tensor/cpu/gemm.cpp", "#include <oneapi/dnnl/dnnl.h>", True),
                                 ("trainer/main.cpp", "#  include <mpi.h>", False),
                                 ("checkpoint/file.h", "#include <nlohmann/json.hpp>", True),
                                 ("comm/group.h", "#include <nlohmann/json.hpp>", False),
                                 ("comm/mesh.h", '#include "mesh.h"', False),
                                 ("models/head.h", "#include <Eigen/Dense>", False),
                                 ("models/head.h", "#include <vector>", True)):
            with self.subTest(path=path, line=line):
                self.assertEqual(include_violations(pathlib.Path(path), line) == [], fine)

    def test_headers(self):
        self.assertFalse(opens_with_paragraph("#pragma once\n// Late."))
        self.assertFalse(opens_with_paragraph("// mesh.h\n#pragma once\n"))
        self.assertTrue(opens_with_paragraph("// Mesh: the groups of one rank, by axis.\n#pragma once\n"))

    def test_paths(self):
        for line, found in (("cd /" + "home/ada/model", True), ("x = '/" + "root/data'", True), ("see runs/home/x", False), ("a/" + "work/b", False)):
            self.assertEqual(bool(MACHINE.search(line)), found, line)


if __name__ == "__main__":
    unittest.main()
