"""Slack's Python SDK reads each block of each message, checks it, and must write the same block again.

check.py FOLDER  judges the messages in FOLDER
"""

import copy
import json
import pathlib
import sys

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block


def blocks(message):
    """All blocks of a message: its own, then those of its attachments."""
    yield from message.get("blocks", [])
    for attachment in message.get("attachments", []):
        yield from attachment.get("blocks", [])


def wrong(message):
    """What the SDK has against a message; None if nothing."""
    for block in blocks(message):
        try:
            parsed = Block.parse(block)
            again = parsed.to_dict() if parsed is not None else None
        except (SlackObjectFormationError, TypeError, ValueError) as error:
            return f"{block.get('type')}: {error}"
        if again != block:
            return f"{block.get('type')}: read as {again}"
    return None


def spoilt(message):
    """Copies of a message, each with one thing wrong that Slack would refuse."""
    plain = {"type": "plain_text", "text": "x" * 151}
    mrkdwn = {"type": "mrkdwn", "text": "x"}
    for name, block in {
        "an unknown type": {"type": "sekshun", "text": mrkdwn},
        "an unknown key": {"type": "section", "text": mrkdwn, "link_names": True},
        "a header of 151": {"type": "header", "text": plain},
        "a section of 3001": {"type": "section", "text": {**mrkdwn, "text": "x" * 3001}},
        "11 fields": {"type": "section", "fields": [mrkdwn] * 11},
        "11 elements": {"type": "context", "elements": [mrkdwn] * 11},
    }.items():
        copied = copy.deepcopy(message)
        copied["attachments"][0]["blocks"].append(block)
        yield name, copied


def main(folder):
    files = sorted(pathlib.Path(folder).glob("*.json"))
    if not files:
        sys.exit(f"slack_sdk: no messages in {folder}")
    judged = 0
    for file in files:
        message = json.loads(file.read_text(encoding="utf-8"))
        judged += len(list(blocks(message)))
        if error := wrong(message):
            sys.exit(f"slack_sdk: {file.name}: {error}")
    refused = 0
    for name, message in spoilt(json.loads(files[0].read_text(encoding="utf-8"))):
        if wrong(message) is None:
            sys.exit(f"slack_sdk: {name} was accepted: this judge sees nothing")
        refused += 1
    print(f"slack_sdk: {len(files)} messages, {judged} blocks accepted; {refused} wrong ones refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
