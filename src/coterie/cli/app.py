"""The commands, by name; each one's module is imported when it is called."""

from importlib.metadata import version
from typing import Any

from cyclopts import App

COMMANDS = {
    "demo": "Run the whole job on invented data: split, train, evaluate, recommend, test online.",
    "download": "Fetch a public data set, resumed where it stopped, and checked.",
    "prepare": "Turn a log of interactions into a data set folder.",
    "split": "Divide a data set into training, validation and test.",
    "train": "Train a recommender on a split: a VAE, or a baseline to compare it with.",
    "evaluate": "Rank all items for held-out users and measure how good the lists are.",
    "compare": "Train several models on several seeds and say which is better.",
    "diagnose": "Measure who helps whom in a trained model, and why.",
    "recommend": "Recommend items to one user or to millions.",
    "similar": "List the items most similar to given ones.",
    "explain": "Say who helps a user, and what an item's score rests on.",
    "study": "Train the paper's settings on several seeds and report what changes.",
    "serve": "Answer requests for recommendations over HTTP.",
    "export": "Write a model as an ONNX file, for servers without coterie.",
    "experiment": "Plan an online A/B test, see how it stands, analyse it.",
    "tune": "Search a model's settings, on validation users only.",
    "reproduce": "Repeat the literature's experiments and print its figures beside ours.",
    "info": "Say what a file or folder of coterie is, and what is in it.",
}

EXAMPLES = """\
Examples:
  coterie demo
  coterie prepare ratings.csv --out data --threshold 4 --min-user-items 5
  coterie split data --out split
  coterie train split --out run --lambda-a 1
  coterie evaluate run split
  coterie recommend run --history 318 527 -k 5

`coterie COMMAND --help` tells more; --install-completion sets up your shell.
"""


def new_app(name: str, examples: str = "", **settings: Any) -> App:
    """An application or command in the house style; ``examples`` end its help."""
    return App(
        name=name,
        help_epilogue=examples,
        help_format="plaintext",
        version=version("coterie"),
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
        **settings,
    )


app = new_app(
    "coterie",
    EXAMPLES,
    help="VAE recommenders in which users help each other on purpose.",
)
for _name, _help in COMMANDS.items():
    app.command(f"coterie.cli.{_name}:app", name=_name, help=_help)
app.register_install_completion_command(help="Install completion for your shell.")
