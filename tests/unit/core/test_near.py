from mmclip.near import did_you_mean, nearest

VERBS = {"train": 1, "finetune": 2, "eval": 3}


def test_the_most_alike_comes_first():
    assert nearest("ViT-B-33", ["RN50", "ViT-L-14", "ViT-B-32"]) == ["ViT-B-32", "ViT-L-14"]
    assert nearest("ViT-B-33", ["RN50", "ViT-L-14", "ViT-B-32"], 1) == ["ViT-B-32"]


def test_a_word_like_none_gets_no_guess():
    assert nearest("xyz", VERBS) == []
    assert did_you_mean("xyz", VERBS, before="; ", after=" ") == ""
    assert did_you_mean("train", []) == ""
    assert nearest("openai", ["pets", "food101"]) == ["pets"], "a list may name what is somewhat alike"
    assert did_you_mean("openai", ["pets", "food101"]) == "", "a single guess may not"
    assert did_you_mean("imagenet", ["mae", "clip"]) == ""


def test_a_guess_joins_its_sentence():
    assert did_you_mean("trian", VERBS) == "did you mean 'train'?"
    assert did_you_mean("trian", VERBS, before="; ", after=" ") == "; did you mean 'train'? "
    assert did_you_mean("evil", (word for word in VERBS)) == "did you mean 'eval'?"


def test_a_flag_stands_as_it_is_typed():
    assert did_you_mean("--datset", ["--dataset", "--output"]) == "did you mean --dataset?"
