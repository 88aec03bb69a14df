"""A folder with a card to the Hugging Face Hub: what it needs is asked for long before."""

from __future__ import annotations

from pathlib import Path

from storage.errors import UserError


def require_upload(repo: str) -> None:
    """Raise UserError for a name that no repository can have, and where no token is at hand."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            f"`push_to_hub` {repo!r} is no name of a repository ({error}): give OWNER/NAME"
        ) from error
    if get_token() is None:
        raise UserError(
            f"`push_to_hub` {repo} needs a token of the Hugging Face Hub: `hf auth login`, or set HF_TOKEN"
        )


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Make a folder the content of a model repository, created where there is none; its address.

    Raises UserError: the folder is as it was, and how to upload it by hand.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload the adapter")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{folder} was not uploaded to {repo} ({error}): the adapter is there; try again with the same "
            f"command, or `hf upload {repo} {folder}`"
        ) from error
    return str(made)
