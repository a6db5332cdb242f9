"""A slip in a configuration is refused before a run folder is made."""

import pytest
from small_federation import tree

from secfed.config import parse_run_config
from secfed.errors import ConfigError
from secfed.experiment.run import run_experiment


class Silent:
    """No progress: nothing may happen."""

    def __getattr__(self, name):
        raise AssertionError(f"the run went on to {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test": [{"name": "t", "phantom": {"protocol": "no-such", "test": 1}}]},
            r"test set 't': protocol = 'no-such': no such protocol; known of task 'abdomen': .*t2",
        ),
        (
            {"task": "whole_heart", "test": [{"name": "t", "phantom": {"protocol": "mr-any", "test": 1}}]},
            r"test set 't': protocol = 'mr-any' scans for task 'abdomen', not 'whole_heart'; use ct-angio-a.*bssfp-b",
        ),
        (
            {"test": [{"name": "t", "phantom": {"protocol": "ct-any", "population": "west", "test": 1}}]},
            r"test set 't': population = 'west': .*known: north, south",
        ),
        (
            {"task": "whole_heart", "training": {"class_weights": [1.0] * 9}},
            r"class_weights has 9 numbers, but 'whole_heart' has 8 classes",
        ),
        ({"training": {"class_weights": [1.0, 2.0]}}, r"class_weights has 2 numbers, but 'abdomen' has 9 classes"),
    ],
    ids=["protocol", "protocol of another task", "population", "class weights of another task", "class weights"],
)
def test_a_name_or_size_that_does_not_exist_is_refused_before_the_run_folder_is_made(tmp_path, change, message):
    config = parse_run_config(tree(tmp_path, **change))
    with pytest.raises(ConfigError, match=message):
        run_experiment(config, out=tmp_path / "run", engine="in_process", resume=False, cores=1, progress=Silent())
    assert not (tmp_path / "run").exists()
