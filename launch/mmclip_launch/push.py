"""An exported folder onto the Hugging Face Hub, by huggingface_hub, which alone knows the token."""

import re
from pathlib import Path

from mmclip.errors import MachineError, UserError

TOKEN = re.compile(r"hf_\w{8,}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repository(name: str) -> None:
    """Refuse what is no name on the Hub, before anything is exported.

    Raises:
        UserError: saying what is expected.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UserError(f"--push {name}: expected ORG/NAME of letters, digits, '-', '_' and '.'")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder as it stands into a repository, which is made where there is none; returns where the commit is.

    Raises:
        UserError: the Hub refuses: no token, no right to write there, a name it does not take.
        MachineError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Export of {folder.absolute().name}"
        )
    except LocalTokenNotFoundError as error:
        raise UserError(_refused(folder, repository, "there is no token: log in by `hf auth login`")) from error
    except HfHubHTTPError as error:
        hint = " (log in by `hf auth login` with a token that may write there)" if _is_denied(error) else ""
        raise UserError(_refused(folder, repository, f"{_told(error)}{hint}")) from error
    except Exception as error:  # the client's transport, and the upload beneath it, have kinds of their own
        raise MachineError(_refused(folder, repository, f"{type(error).__name__}: {_told(error)}")) from error
    return str(commit.commit_url)


def _is_denied(error: object) -> bool:
    return getattr(getattr(error, "response", None), "status_code", 0) in (401, 403)


def _refused(folder: Path, repository: str, reason: str) -> str:
    return f"--push {repository}: the Hub did not take it: {reason}. The export itself is whole in {folder}"


def _told(error: Exception) -> str:
    """What the client says, in one line and without a token, should one stand in it."""
    return TOKEN.sub("hf_...", " ".join(str(error).split()))[:300]
