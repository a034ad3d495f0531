"""Jobs that start from a model that is there: its weights in any layout, its exits, and new ones."""
import json
import re
import struct
import unittest

from job import JobTest

EXITS = ("[{layer: 1, head: norm, loss_weight: 0.25}, {layer: 2, head: attention, norm: shared, loss_weight: 0.1}, "
         "{layer: 3, head: mlp, loss_weight: 0.5}, {layer: 4, head: block, output: shared, loss_weight: 0.1}]")
FROM = {"training.steps": 0, "training.seed": 77}  # of another seed: what is not the base's shows


def tensors(path):
    """By name, the bytes of a safetensors file's tensors."""
    content = path.read_bytes()
    length, = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name != "__metadata__"}


class BaseTest(JobTest):
    architecture = "llama"

    @property
    def sets(self):
        return {"model.architecture": self.architecture, "exits": EXITS, "checkpoint.directory": "base/checkpoints", "export.hf": "base/hf"}

    def setUp(self):
        super().setUp()
        self.assert_ends(self.run_job(sets={**self.sets, "training.steps": 3, "checkpoint.interval": 2}), 0)

    def start_from(self, base, name="new", ranks=4, status=0, **more):
        """A job whose model is all the base's: no size is named."""
        config = re.sub(r"model: \{.*\}", f"model: {{from: {base}}}", (self.directory / "job.yaml").read_text())
        (self.directory / "new.yaml").write_text(config)
        sets = {"exits": EXITS, "export.hf": f"{name}/hf", "logging.directory": name, **FROM, **more}
        result = self.run_job(ranks=ranks, arguments=["new.yaml" if word == "job.yaml" else word for word in self.arguments(ranks, sets)])
        self.assert_ends(result, status)
        return result.said

    def weights(self, name, file="model"):
        return tensors(self.directory / name / "hf" / f"{file}.safetensors")

    def assert_same(self, name):
        for file in ("config.json", "model.safetensors", "exits.json", "exits.safetensors", "tokenizer.json"):
            self.assertEqual((self.directory / name / "hf" / file).read_bytes(), (self.directory / "base/hf" / file).read_bytes(), file)

    @property
    def names(self):
        return ("model.layers", "model.norm", "lm_head") if self.architecture == "llama" else ("transformer.h", "transformer.ln_f", "lm_head")


class Llama(BaseTest):
    def test_every_layout_starts_from_the_same_bits(self):
        layouts = [(1, {}), (2, {"parallel.data_parallel_size": 2, "parallel.zero_stage": 1, "parallel.pipeline_parallel_size": 1}),
                   (4, {"parallel.tensor_parallel_size": 2, "parallel.pipeline_parallel_size": 2})]
        for base in ("base/checkpoints", "base/checkpoints/step-3", "base/hf"):
            for ranks, layout in layouts:
                with self.subTest(base=base, ranks=ranks):
                    said = self.start_from(base, f"of-{ranks}", ranks, **layout)
                    self.assertRegex(said, rf"weights from {base}")
                    self.assert_same(f"of-{ranks}")

    def test_exits_begin_anew_as_they_are_told(self):
        last, own = 3, {1: 0, 2: 1, 3: 2, 4: 3}  # layers, from 0
        base = self.weights("base")
        prefix, norm, output = self.names
        for init, layer_of in (("final", lambda l: last), ("copy_layer", lambda l: min(own[l] + 1, last))):
            exits = re.sub(r"loss_weight", f"init: {init}, loss_weight", EXITS)
            self.assertIn("exits begin anew at layer 1, 2, 3, 4", self.start_from("base/checkpoints", init, exits=exits))
            self.assertEqual(self.weights(init), base)
            for name, values in self.weights(init, "exits").items():
                _, layer, kind, *rest = name.split(".")
                of_mlp = last if init == "final" else own[int(layer)]
                origin = {"norm": f"{norm}.{'.'.join(rest)}", "head": f"{output}.weight", "mlp": f"{prefix}.{of_mlp}.mlp.{'.'.join(rest)}",
                          "block": f"{prefix}.{layer_of(int(layer))}.{'.'.join(rest)}"}[kind]
                self.assertEqual(values, base[origin], f"{name} from {origin}")

    def test_random_exits_are_those_of_a_job_without_a_base(self):
        exits = re.sub(r"loss_weight", "init: random, loss_weight", EXITS)
        self.start_from("base/hf", "random", exits=exits)
        self.assert_ends(self.run_job(sets={**self.sets, "export.hf": "fresh/hf", "checkpoint.directory": "null", **FROM}), 0)
        self.assertEqual(self.weights("random", "exits"), self.weights("fresh", "exits"))
        self.assertEqual(self.weights("random"), self.weights("base"))
        self.assertNotEqual(self.weights("fresh"), self.weights("base"))

    def test_copies_of_what_is_random(self):
        """Without a base, an exit begins as a copy of what the final head and layers begin as."""
        exits = re.sub(r"loss_weight", "init: final, loss_weight", EXITS)
        self.assert_ends(self.run_job(sets={**self.sets, "exits": exits, "export.hf": "fresh/hf", "checkpoint.directory": "null", **FROM}), 0)
        prefix, _, output = self.names
        exits, backbone = self.weights("fresh", "exits"), self.weights("fresh")
        self.assertEqual(exits["exits.1.head.weight"], backbone[f"{output}.weight"])
        for name in ("down_proj", "c_proj"):
            for exit in (3, 4):
                place = f"exits.{exit}.{'mlp' if exit == 3 else 'block.mlp'}.{name}.weight"
                if place in exits:
                    self.assertEqual(exits[place], backbone[f"{prefix}.3.mlp.{name}.weight"])

class Gpt2(Llama):
    architecture = "gpt2"


class Refusals(BaseTest):
    def test_what_is_missing_is_named(self):
        exits = "[{layer: 1, head: norm, loss_weight: 0.25}, {layer: 3, head: mlp, loss_weight: 0.5}]"
        self.assert_ends(self.run_job(sets={"exits": "[{layer: 1, loss_weight: 0.5}]", "export.hf": "one/hf"}), 0)
        said = self.start_from("one/hf", exits=exits, status=4)
        self.assertRegex(said, r"one/hf: has no tensor exits\.3\.\S+; the nearest it has is '\S+mlp\.\S+'")
        self.assertRegex(said, r"new here begins by `init: final, copy_layer or random`")
        self.assertIn("anew at layer 3", self.start_from("one/hf", exits=exits.replace("head: mlp", "head: mlp, init: copy_layer")))
        self.assertRegex(self.start_from("nowhere", status=4), "nowhere: no model is there")
        self.assertRegex(self.start_from("base", status=4), "base: no model is there")

    def test_what_contradicts(self):
        said = self.start_from("base/hf", status=2, exits=EXITS.replace("head: norm", "head: bare"), **{"model.hidden_size": 32})
        self.assertRegex(said, r"model\.hidden_size: is 32, but the model of base/hf has 16")
        self.assertRegex(said, r"exits\.0\.head: is bare, but the exit of base/hf at layer 1 has norm")
        self.start_from("base/hf", **{"model.hidden_size": 16, "model.hidden_dropout": 0.1})
        self.assertRegex(self.run_job(sets={"exits": EXITS.replace("head: norm", "init: base")}).said, r"exits\.0\.init: there is no base")

    def test_the_newest_that_is_sound(self):
        for path in (self.directory / "base/checkpoints/step-3").glob("rank-*.h5"):
            path.write_bytes(path.read_bytes()[:-1])
        self.assertRegex(self.start_from("base/checkpoints"), "weights from base/checkpoints/step-2")

    def test_a_resume_goes_on_from_its_own(self):
        self.start_from("base/hf", **{"training.steps": 2, "checkpoint.directory": "new/checkpoints"})
        arguments = [word.replace("job.yaml", "new.yaml") for word in
                     self.arguments(4, {"exits": EXITS, "training.steps": 3, "checkpoint.directory": "new/checkpoints", "training.seed": 77})]
        said = self.run_job(arguments=[*arguments, "--resume", "auto"]).said
        self.assertRegex(said, "resumed from new/checkpoints/step-2")
        self.assertNotIn("weights from", said)


if __name__ == "__main__":
    unittest.main()
