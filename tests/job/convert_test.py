"""Checkpoints, and what others read of them: in and out again nothing changes."""
import subprocess
import unittest

from job import PROGRAM, JobTest

FILES = ("config.json", "model.safetensors", "exits.json", "exits.safetensors", "tokenizer.json", "tokenizer_config.json")
SETS = {"checkpoint.directory": "out/checkpoints", "model.num_key_value_heads": 1, "model.num_attention_heads": 2,
        "model.max_position_embeddings": 16}


class Convert(JobTest):
    def setUp(self):
        super().setUp()
        self.assert_ends(self.run_job(sets=SETS), 0)

    def offramp(self, *arguments, status=0):
        done = subprocess.run([PROGRAM, *arguments], cwd=self.directory, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def content(self, folder):
        return {name: (self.directory / folder / name).read_bytes() for name in FILES}

    def assert_same_weights(self, one, other):
        self.assertIn("all tensors are equal", self.offramp("checkpoint", "diff", one, other))

    def test_hugging_face(self):
        self.offramp("export", "hf", "out/checkpoints", "again")
        self.assertEqual(self.content("again"), self.content("out/hf"))
        self.offramp("import", "hf", "again", "imported")
        self.offramp("checkpoint", "average", "out/checkpoints", "--output", "weights")  # of one: without the optimizer's state
        self.assert_same_weights("imported", "weights")
        self.offramp("export", "hf", "imported", "once_more")
        self.assertEqual(self.content("once_more"), self.content("out/hf"))
        self.offramp("export", "hf", "imported", "shards", "--max-shard-size", "20KB")
        self.offramp("import", "hf", "shards", "of_shards")
        self.assert_same_weights("imported", "of_shards")

    def test_gguf(self):
        self.offramp("export", "gguf", "out/checkpoints", "model.gguf")
        self.offramp("import", "gguf", "model.gguf", "imported")
        self.offramp("export", "hf", "imported", "again")
        self.assertEqual((self.directory / "again/model.safetensors").read_bytes(), (self.directory / "out/hf/model.safetensors").read_bytes())
        self.offramp("export", "gguf", "out/checkpoints", "draft.gguf", "--exit", "3")

    def test_drafts(self):
        self.offramp("export", "draft", "out/checkpoints", "draft", "--exit", "1")
        self.offramp("import", "hf", "draft", "imported")
        self.assertIn("step-0", self.offramp("checkpoint", "ls", "imported"))
        self.assertIn("no exit at layer 2", self.offramp("export", "draft", "out/checkpoints", "none", "--exit", "2", status=4))

    def test_resharded(self):
        self.offramp("checkpoint", "reshard", "out/checkpoints", "--files", "3", "--output", "three")
        self.assertEqual(len(list((self.directory / "three/step-4").glob("rank-*.h5"))), 3)
        self.assert_same_weights("three", "out/checkpoints")
        self.assertIn("sound", self.offramp("checkpoint", "verify", "three"))

    def test_weights_alone_are_no_state(self):
        self.offramp("import", "hf", "out/hf", "imported")
        arguments = self.arguments(4, SETS) + ["--resume", "imported"]
        self.assertIn("no state to resume from", self.run_job(arguments=arguments).output)


if __name__ == "__main__":
    unittest.main()
