"""The same conversations in any format and container give the same token folder."""

from pathlib import Path

from test_text_programs import describe, run_chunk, run_tokenize
from tokenizer_folders import llama_folder

from amberline.core.manifests import verify
from data.test_containers import CONTAINERS, ROWS, TEXTS, mixed

PACKED = {
    "messages": ("Parquet", "JSON lines"),
    "alpaca": ("JSON lines, zstd",),
    "sharegpt": ("JSON array",),
    "evol_instruct": ("JSON array, gzip",),
}


def test_five_files_of_the_same_rows_give_one_token_folder(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "base", legacy=True)
    model = describe(folder, "model", list(folder.iterdir()))
    made = []
    for format_name, packed in ((name, each) for name, containers in PACKED.items() for each in containers):
        out = tmp_path / f"made{len(made)}"
        out.mkdir()
        mixed(out, format_name, CONTAINERS[packed](list(map(ROWS[format_name], range(len(TEXTS))))))
        tokens = run_tokenize(run_chunk(out / "data/mix_file.json", model, out / "chunks"), model, out / "tokens")
        made.append(verify(tokens))
    assert len(made) == 5
    assert len({manifest["digest"] for manifest in made}) == 1
    rows = next(each for each in made[0]["facts"]["counts"] if each["unit"] == "chunks")
    assert rows["out"] == len(TEXTS)
