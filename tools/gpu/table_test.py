#!/usr/bin/env python3
"""Tests of table.py: what is met, missed and open, from files like those of hopper_bench and gpu_peers.py."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import table  # noqa: E402

DENSE = "fp8_linear/4096x7168/m4096"


def figure(name, **counters):
    return {"name": f"{name}/iterations:1/manual_time", "label": "NVIDIA H100", **counters}


class TableTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def results(self, figures, peers=()):
        (self.folder / "bench.json").write_text(json.dumps({"benchmarks": figures}))
        (self.folder / "peers.jsonl").write_text("a warning\n" + "".join(json.dumps(p) + "\n" for p in peers))
        return table.Results(self.folder)

    def row(self, results, title, name):
        for part in table.tables(results):
            for row in part.rows if part.title.startswith(title) else []:
                if row[0] == name:
                    return row
        self.fail(f"no row {name}")

    def test_nothing_measured(self):
        text, missed = table.render(table.Results())
        self.assertEqual(missed, 0)
        self.assertIn("Goals met: 0, missed: 0, not measured: ", text)
        self.assertNotIn("met |", text)
        goals = sum(part.open for part in table.tables(table.Results()))
        self.assertEqual(goals, 18 * 3 + 10 + len(table.PASSES) + 4 + 6 + 3 + 1)

    def test_met(self):
        results = self.results([figure(DENSE, us=100.0, TFLOPS=1411.0, **{"GB/s": 541, "cublaslt_fp8_us": 105.1})],
                               [{"figure": DENSE, "peer": "triton", "us": 110.1},
                                {"figure": DENSE, "peer": "torch_bf16", "us": 190.0},
                                {"figure": DENSE, "peer": "torch_scaled_mm", "error": "refused"}])
        row = self.row(results, "FP8 products, dense", "4096x7168/m4096")
        self.assertEqual(row, ["4096x7168/m4096", "100.0", "1411", "541", "1410 TFLOPS, 541 GB/s", "1.05", "1.10", "1.90", "met"])

    def test_the_faster_of_two_peers_counts(self):
        results = self.results([figure(DENSE, us=100.0, TFLOPS=1500.0, cublaslt_fp8_us=120.0)],
                               [{"figure": DENSE, "peer": "triton", "us": 120.0},
                                {"figure": DENSE, "peer": "torch_scaled_mm", "us": 104.0}])
        self.assertIn("**missed** 1.05× cuBLASLt FP8: 1.04", self.row(results, "FP8 products, dense", "4096x7168/m4096")[-1])

    def test_small_batches_are_held_against_bandwidth(self):
        name = "fp8_linear/4096x7168/m64"
        results = self.results([figure(name, us=10.0, TFLOPS=100.0, **{"GB/s": 2321.0})])
        verdict = self.row(results, "FP8 products, dense", "4096x7168/m64")[-1]
        self.assertEqual(verdict, "no peer for 1.05× cuBLASLt FP8, 1.1× Triton")

    def test_errors_are_told(self):
        results = self.results([figure("rmsnorm/BF16", error_occurred=True, error_message="rows are not aligned")])
        self.assertEqual(self.row(results, "Passes", "rmsnorm/BF16")[-1], "cannot run: rows are not aligned")

    def test_files_cut_off(self):
        whole = json.dumps({"context": {"a": [1]}, "benchmarks": [figure("a/b", us=1.0), figure("c/d", us=2.0)]}, indent=2)
        path = self.folder / "part.json"
        for end, names in ((len(whole), ["a/b", "c/d"]), (whole.index("c/d"), ["a/b"]), (whole.index("a/b"), []), (0, [])):
            path.write_text(whole[:end])
            command = [sys.executable, table.__file__, "--merge", str(path), str(self.folder / "absent.json")]
            merged = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["benchmarks"]
            self.assertEqual([entry["name"].split("/iterations")[0] for entry in merged], names)

    def test_wrong_names(self):
        for arguments in ([str(self.folder / "absent")], ["--into", str(self.folder / "absent.md")]):
            run = subprocess.run([sys.executable, table.__file__, *arguments], check=False, capture_output=True, text=True)
            self.assertEqual(run.returncode, 2)
            self.assertIn("absent", run.stderr)

    def test_program(self):
        self.results([figure("rmsnorm/BF16", us=1.0, of_copy=0.84, **{"GB/s": 2500.0})])
        page = self.folder / "page.md"
        page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
        command = [sys.executable, str(pathlib.Path(table.__file__)), str(self.folder), "--into", str(page)]
        self.assertEqual(subprocess.run(command, check=False).returncode, 1)
        text = page.read_text()
        self.assertIn("missed: 1,", text)
        self.assertIn("Chip: NVIDIA H100.", text)
        self.assertTrue(text.startswith("before\n") and text.endswith(f"{table.END}\nafter\n"))
        self.assertNotIn("old", text)


if __name__ == "__main__":
    unittest.main()
