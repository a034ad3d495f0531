"""A supernet's whole job: its axes are sorted once, which changes nothing of the whole model, and it stops and goes on to the same bits;
so does one that shrinks, with its frozen teacher."""
import unittest

from job import JobTest, metrics

SORT, START, LAST = 4, 6, 10  # a step before which channels are sorted; the last one of the whole alone; the last, inside the ramp
SORTED = r"before step 4: sorted by importance: queries_per_group, num_key_value_heads, intermediate_size, hidden_size$"
OFA = {"supernet__plan": "ofa", "supernet__sort_step": START + 1, "supernet__ramp": None}  # None: not given
LAYOUTS = [  # ranks, what else
    (1, {"parallel.pipeline_parallel_size": 1}), (2, {"parallel.pipeline_parallel_size": 2}),
    (4, {"parallel.pipeline_parallel_size": 1, "parallel.tensor_parallel_size": 2, "parallel.zero_stage": 1, "training.precision": "bf16"}),
]


class Supernet(JobTest):
    def run_supernet(self, name, ranks, layout, resume=None, **more):
        sets = {"training.steps": LAST, "logging.directory": name, "export.hf": f"{name}/hf", "checkpoint.directory": f"{name}/checkpoints",
                "model.num_attention_heads": 8, "model.num_key_value_heads": 4, "supernet.plan": "deps", "supernet.start": START,
                "supernet.ramp": 8, "supernet.sort_step": SORT, "supernet.hidden_size": "[8, 16]", "supernet.intermediate_size": "[8, 24]",
                "supernet.num_key_value_heads": "[2, 4]", "supernet.queries_per_group": "[1, 2]"}
        sets |= layout | {key.replace("__", "."): value for key, value in more.items()}
        arguments = self.arguments(ranks, {key: value for key, value in sets.items() if value is not None})
        return self.run_job(ranks=ranks, arguments=arguments + (["--resume", resume] if resume else []))

    def train(self, *arguments, **more):
        result = self.run_supernet(*arguments, **more)
        self.assert_ends(result, 0)
        return result

    def exported(self, name):
        return [(self.directory / name / "hf" / file).read_bytes() for file in ("model.safetensors", "exits.safetensors")]

    def losses(self, name):
        return {line["step"]: line["loss"] for line in metrics(self.directory, name)}

    def subnet_losses(self, name):
        """Of the first step that trains subnets."""
        (line,) = [line for line in metrics(self.directory, name) if line["step"] == START + 1]
        return [subnet["loss"] for subnet in line["subnets"]]

    def test_a_sort_changes_nothing_of_the_whole(self):
        self.train("unsorted", *LAYOUTS[0], supernet__sort_step=0)
        expected = self.losses("unsorted")
        for i, (ranks, layout) in enumerate(LAYOUTS[:2]):
            self.assert_ends(self.train(f"sorted_{i}", ranks, layout), 0, SORTED)
            found = self.losses(f"sorted_{i}")
            for step in range(1, START + 1):
                self.assertAlmostEqual(found[step] / expected[step], 1, delta=1e-5, msg=f"layout {i}, step {step}")
            changes = [abs(a / b - 1) for a, b in zip(self.subnet_losses(f"sorted_{i}"), self.subnet_losses("unsorted"))]
            self.assertGreater(max(changes), 1e-4, "subnets have other channels")

    def test_the_same_bits_wherever_it_stops(self):
        for i, (ranks, layout) in enumerate(LAYOUTS):
            self.train(f"whole_{i}", ranks, layout)
            for stop in (SORT - 1, SORT, START + 2):
                name = f"stopped_{i}_{stop}"
                self.train(name, ranks, layout, training__stop_at=stop)
                result = self.train(name, ranks, layout, resume="auto")
                self.assertEqual("sorted by importance" in result.output, stop < SORT)
                self.assertEqual(self.exported(name), self.exported(f"whole_{i}"), f"layout {i}, stopped after step {stop}")
                self.assertEqual(self.losses(name), self.losses(f"whole_{i}"))

    def test_a_frozen_teacher_goes_on_to_the_same_bits(self):
        for i, (ranks, layout) in enumerate(LAYOUTS):
            self.train(f"shrunk_{i}", ranks, layout, **OFA)
            taught = [subnet for line in metrics(self.directory, f"shrunk_{i}") for subnet in line.get("subnets", [])]
            self.assertTrue(taught and all("acceptance" in subnet for subnet in taught))
            for stop in (START, START + 1, START + 3):
                name = f"stopped_shrunk_{i}_{stop}"
                self.train(name, ranks, layout, training__stop_at=stop, **OFA)
                result = self.train(name, ranks, layout, resume="auto", **OFA)
                self.assertEqual(f"before step {START + 1}: subnets learn from the whole as it is now" in result.output, stop == START)
                self.assertEqual(self.exported(name), self.exported(f"shrunk_{i}"), f"layout {i}, stopped after step {stop}")
                self.assertEqual(self.losses(name), self.losses(f"shrunk_{i}"))

    def test_without_its_teacher_it_does_not_go_on(self):
        ranks, layout = LAYOUTS[0]
        self.train("labels", ranks, layout, supernet__distillation="false", training__stop_at=START + 2, **OFA)
        result = self.run_supernet("labels", ranks, layout, resume="auto", **OFA)
        self.assert_ends(result, 2, f"supernet.start: .*step-{START + 2} has no teacher of step {START}; set start to {START + 2}")


if __name__ == "__main__":
    unittest.main()
