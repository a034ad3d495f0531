"""Jobs in which something goes wrong: each must end soon, all of it, with the exit code and one line that says what to change."""
import array
import json
import math
import os
import re
import resource
import signal
import struct
import unittest

from job import CONFIG, FOREVER, SAMPLE, STEP, JobTest, metrics


class Signals(JobTest):
    """Ranks that are killed, or stand still."""

    def test_killed_rank(self):
        with self.start_job(sets={"training.steps": FOREVER}) as job:
            job.wait_for_step(2)
            os.kill(job.pids()[1], signal.SIGKILL)
            self.assertEqual(job.result(20).status, 128 + signal.SIGKILL)
            self.assert_nothing_left(job)

    def test_stopped_rank(self):
        with self.start_job(sets={"training.steps": FOREVER, "training.timeout_s": 3}) as job:
            job.wait_for_step(2)
            ranks = job.pids()
            self.assertEqual(sorted(ranks), [0, 1, 2, 3])
            os.kill(ranks[1], signal.SIGSTOP)
            result = job.result(30)
            self.assert_nothing_left(job)
        self.assert_ends(result, 7)
        for rank in (0, 2, 3):  # what it did, and for whom it waits
            self.assert_ends(result, 7, rf"^offramp: rank {rank} on \S+: no progress for 3 s: step \d+, .*waiting for .*rank")
        self.assertRegex(result.said, r"rank 0 on .*waiting for .*(rank 1\)|ranks 0 1)")
        self.assertRegex(result.said, r"raise training.timeout_s")

    def test_interrupted_launcher(self):
        with self.start_job(sets={"training.steps": FOREVER}) as job:
            job.wait_for_step(1)
            self.assertEqual(len(job.pids()), 4)
            job.process.send_signal(signal.SIGTERM)
            self.assertNotEqual(job.result(30).status, 0)
            self.assert_nothing_left(job)


class Numbers(JobTest):
    """Losses and gradients that are not finite."""

    DIVERGES = {"optimizer.lr": 1e30, "optimizer.clip_grad_norm": 0, "training.steps": 6}
    WHAT = r"^offramp: rank 0 on \S+: step (\d+): (the loss of .+ is -?(nan|inf)|the gradient of \S+ is not finite); no parameter was changed"

    def weights(self):
        values = {}
        for path in (self.directory / "out" / "hf").glob("*.safetensors"):
            content = path.read_bytes()
            (size,) = struct.unpack("<Q", content[:8])
            for name, entry in json.loads(content[8:8 + size]).items():
                if name != "__metadata__":
                    begin, end = (8 + size + offset for offset in entry["data_offsets"])
                    values[name] = array.array("f", content[begin:end])
        return values

    def test_abort(self):
        result = self.run_job(sets=self.DIVERGES)
        self.assert_ends(result, 6, self.WHAT, r"lower optimizer.lr, or set training.nan: skip$")
        step = int(re.search(self.WHAT, result.said, re.M).group(1))
        self.assertGreater(step, 1)
        self.assertEqual([record["step"] for record in metrics(self.directory)], list(range(1, step)))
        self.assertFalse((self.directory / "out" / "hf").exists())

    def test_loss_names_the_exit(self):
        """A bare head has no norm before its product: huge weights overflow in its logits first."""
        (self.directory / "job.yaml").write_text(CONFIG.replace("head: norm", "head: bare"))
        result = self.run_job(sets={**self.DIVERGES, "optimizer.lr": 1e19})
        self.assert_ends(result, 6, r"^offramp: rank 0 on \S+: step \d+: the loss of exit 1 \(bare\) is -?(nan|inf); no parameter was changed")

    def test_skip_leaves_parameters_untouched(self):
        result = self.run_job(sets={**self.DIVERGES, "training.nan": "skip"})
        self.assert_ends(result, 0)
        skipped = [int(step) for step in re.findall(r"^warning: step (\d+): .*, the step is skipped$", result.said, re.M)]
        self.assertEqual(skipped, list(range(skipped[0], 7)), "every step after the first bad one")
        after = self.weights()
        self.assertTrue(all(math.isfinite(x) for tensor in after.values() for x in tensor))

        ended_before = self.run_job(sets={**self.DIVERGES, "training.stop_at": skipped[0] - 1})
        self.assert_ends(ended_before, 0)
        self.assertEqual(after, self.weights())


class Data(JobTest):
    """Files that are not what they should be: exit 3, with file and offset."""

    BIN, IDX = "data/tiny_train.bin", "data/tiny_train.idx"

    def change(self, file, change):
        path = self.directory / file
        path.write_bytes(change(path.read_bytes()))

    def overwrite(self, file, offset, content):
        self.change(file, lambda old: old[:offset] + content + old[offset + len(content):])

    def test_kinds(self):
        kinds = {
            "index cut in its header": (lambda: self.change(self.IDX, lambda b: b[:20]), r"tiny_train\.idx: offset 20: the file ends inside"),
            "index cut in its lists": (lambda: self.change(self.IDX, lambda b: b[:-5]), r"tiny_train\.idx: offset 26: .*8 bytes each"),
            "tokens cut": (lambda: self.change(self.BIN, lambda b: b[:-7]), r"tiny_train\.bin: offset \d+: the file ends inside sequence"),
            "tokens too many": (lambda: self.change(self.BIN, lambda b: b + b"12"), r"tiny_train\.bin: offset \d+: 2 bytes more"),
            "wrong magic": (lambda: self.overwrite(self.IDX, 0, b"MMIDIDY"), r"tiny_train\.idx: offset 0: not a token index"),
            "wrong version": (lambda: self.overwrite(self.IDX, 9, b"\2"), r"tiny_train\.idx: offset 9: version 2"),
            "wrong type": (lambda: self.overwrite(self.IDX, 17, b"\7"), r"tiny_train\.idx: offset 17: token type 7"),
            "made-up count": (lambda: self.overwrite(self.IDX, 18, b"\xff" * 8), r"tiny_train\.idx: offset 18: \d+ sequences do not fit"),
            "empty index": (lambda: self.change(self.IDX, lambda b: b""), r"tiny_train\.idx: offset 0: "),
            "empty tokens": (lambda: self.change(self.BIN, lambda b: b""), r"tiny_train\.bin: offset 0: "),
            "missing": (lambda: (self.directory / self.IDX).unlink(), r"tiny_train\.idx: No such file"),
            "a directory": (lambda: ((self.directory / self.BIN).unlink(), (self.directory / self.BIN).mkdir()), r"tiny_train\.bin: "),
            "bad token": (lambda: self.overwrite(self.BIN, 10, b"\xff\xff"), r"tiny_train\.bin: offset 10: token 65535 is outside"),
        }
        for kind, (spoil, pattern) in kinds.items():
            with self.subTest(kind):
                self.setUp()
                spoil()
                result = self.run_job(ranks=1)
                self.assertEqual(result.status, 3, result.output)
                self.assertRegex(result.said, pattern)
                self.assertEqual(result.said.count("tiny_train.bin: ") + result.said.count("tiny_train.idx: "), 1, result.output)

    def test_fewer_tokens_than_a_step(self):
        for ranks in (1, 4):
            result = self.run_job(ranks=ranks, sets={"training.global_batch_size": 4096})
            self.assert_refused(result, 3, r"tiny_train: \d+ samples of 16 tokens are fewer than one step's 4096")

    def test_under_mpirun_said_once(self):
        self.change(self.IDX, lambda b: b[:20])
        self.assert_refused(self.run_job(), 3, r"tiny_train\.idx: offset 20: ")

    def test_bad_token_that_one_replica_reads(self):
        """The third step reads samples 16 to 23, the second replica the odd ones."""
        position = (2 * STEP + 1) * SAMPLE + 5
        self.overwrite(self.BIN, 2 * position, b"\xff\xff")
        with self.start_job() as job:
            result = job.result()
            self.assert_nothing_left(job)
        self.assertEqual(result.status, 3, result.output)
        self.assertRegex(result.said, rf"rank [23] on \S+: step 3, data: data/tiny_train\.bin: offset {2 * position}: token 65535")
        self.assertNotRegex(result.said, r"rank [01] on")
        self.assertEqual(len(metrics(self.directory)), 2)
        self.assertFalse((self.directory / "out" / "hf").exists())


class Refusals(JobTest):
    """What can be known before the first step is said before the first step, once."""

    def test_configuration(self):
        for sets, pattern in (({"training.steps": "many"}, r'training\.steps: expected an integer, found "many"'),
                              ({"parallel.pipeline_parallel_size": 3}, r"3 does not divide the number of ranks, 4"),
                              ({"parallel.data_parallel_size": 4}, r"data_parallel_size.*8.*4"),
                              ({"training.stepz": 3}, r"did you mean steps\?")):
            with self.subTest(pattern):
                self.assert_refused(self.run_job(sets=sets), 2, pattern)
        self.assert_refused(self.run_job(arguments=["train", "nowhere.yaml"]), 2, r"nowhere\.yaml")
        self.assert_refused(self.run_job(arguments=["trian", "job.yaml"]), 2, r"did you mean train\?")

    def test_export_target(self):
        (self.directory / "foreign").mkdir()
        (self.directory / "foreign" / "thesis.txt").write_text("mine")
        (self.directory / "file").write_text("mine")
        for target, pattern in (("foreign", r"foreign: holds 'thesis\.txt'"), ("file", r"file: is a file"),
                                ("file/below", r"file.*: cannot create"), ("/proc/offramp/hf", r"/proc/offramp.*: cannot create")):
            with self.subTest(target):
                self.assert_refused(self.run_job(sets={"export.hf": target}), 4, pattern)
        self.assertEqual((self.directory / "foreign" / "thesis.txt").read_text(), "mine")

    def test_log_directory(self):
        (self.directory / "file").write_text("mine")
        self.assert_refused(self.run_job(sets={"logging.directory": "file/below"}), 4, r"file/below: cannot create")

    def test_memory(self):
        for layers, hidden in ((64, 65536), (4096, 1 << 20), (4, 1 << 30)):  # beyond the host, the planner, and 64 bits
            for ranks in (1, 4):
                with self.subTest(hidden=hidden, ranks=ranks):
                    self.assert_refused(
                        self.run_job(ranks=ranks, sets={"model.num_hidden_layers": layers, "model.hidden_size": hidden}), 5, r"reduce")


class FullDisk(JobTest):
    """A limit on the size of files stands for a full disk. Open MPI's shared memory would be such a file."""

    def run_on_a_full_disk(self, most, **options):
        return self.run_job(preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
                            env={"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_osc": "^sm"}, **options)

    def test_checkpoints(self):
        """What is there stays, and the run goes on, wherever in a save the disk is full."""
        sets = {"checkpoint.directory": "out/checkpoints", "checkpoint.interval": 2, "checkpoint.keep": 2, "export.hf": "null"}
        self.assert_ends(self.run_job(sets={**sets, "training.steps": 8, "training.stop_at": 2}), 0)
        kept = {path: path.read_bytes() for path in (self.directory / "out/checkpoints").rglob("*") if path.is_file()}
        for most in (30_000, max(len(content) for content in kept.values()) - 1):
            with self.subTest(most=most):
                arguments = self.arguments(4, {**sets, "training.steps": 8}) + ["--resume", "auto"]
                result = self.run_on_a_full_disk(most, arguments=arguments)
                self.assert_ends(result, 4, "the last checkpoint could not be written")
                self.assertRegex(result.said, r"no checkpoint was written: .*cannot (create|write|sync).*ulimit -f")
                self.assertEqual(metrics(self.directory)[-1]["step"], 8)
                left = {path: path.read_bytes() for path in (self.directory / "out/checkpoints").rglob("*") if path.is_file()}
                self.assertEqual(left, kept)
                (self.directory / "out/metrics.jsonl").unlink()

    def test_export(self):
        for ranks in (1, 4):
            with self.subTest(ranks=ranks):
                result = self.run_on_a_full_disk(40_000, ranks=ranks)
                self.assert_ends(result, 4, r"out/hf\.tmp-\d+/model\.safetensors: cannot write: .*ulimit -f")
                self.assertEqual([path.name for path in (self.directory / "out").iterdir()], ["metrics.jsonl"])
                self.assertEqual(metrics(self.directory)[-1]["step"], 4)


if __name__ == "__main__":
    unittest.main()
