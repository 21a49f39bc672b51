"""ActiveSync: a phone that provisions itself once and then asks for its folders ([MS-ASHTTP], [MS-ASCMD]).

The folders are those of the mailbox, so an answer takes the directory, the mailbox server and the database.
"""

from __future__ import annotations

import base64

from .answer import expect_status
from .attempt import AnswerError, Attempt, Steps, Waits
from .wbxml import FOLDERS, PROVISION, Element, Text, decoded, encoded, texts
from .web import exchange

__all__ = ["ask_activesync"]

_POLICY = (PROVISION, 0x08, "MS-EAS-Provisioning-WBXML")
_INBOX = "2"  # the type of the folder, [MS-ASCMD] 2.2.3.170.3
_PROVISION_AGAIN = {"142", "143", "144"}  # [MS-ASCMD] 2.2.2
_RETRY_WITH = "449"  # the same, said by protocol versions before 14.0


def ask_activesync(attempt: Attempt) -> Steps:
    """All folders, after provisioning if need be; a phone that has to do that again has lost its partnership."""
    known = attempt.client.known
    if not known:
        known["policy"] = yield from provisioned(attempt)
        attempt.client.connections += 1
    attempt.connection = attempt.client.connections
    member, said = yield from command(attempt, "FolderSync", (FOLDERS, 0x16, [(FOLDERS, 0x12, "0")]))
    status = texts(said, FOLDERS, 0x0C)
    if _PROVISION_AGAIN.intersection(status):
        raise lost(attempt)
    if status[:1] != ["1"]:
        raise AnswerError("wrong", f"FolderSync: status {', '.join(status) or 'none'}, expected 1")
    kinds = texts(said, FOLDERS, 0x0A)
    if _INBOX not in kinds:
        raise AnswerError("wrong", f"{len(kinds)} folders, and none of them is the inbox")
    return member, f"{len(kinds)} folders"


def provisioned(attempt: Attempt) -> Waits[str]:
    """Take over the server's policy; its key ([MS-ASPROV])."""
    asked = (PROVISION, 0x05, [(PROVISION, 0x06, [(PROVISION, 0x07, [_POLICY])])])
    _, said = yield from command(attempt, "Provision", asked)
    key = texts(said, PROVISION, 0x09)
    if not key:
        return "0"  # the server has no policy
    taken = (PROVISION, 0x07, [_POLICY, (PROVISION, 0x09, key[0]), (PROVISION, 0x0B, "1")])
    _, said = yield from command(attempt, "Provision", (PROVISION, 0x05, [(PROVISION, 0x06, [taken])]))
    final = texts(said, PROVISION, 0x09)
    if not final:
        raise AnswerError("wrong", "Provision: the policy was not confirmed")
    return final[0]


def command(attempt: Attempt, name: str, asked: Element) -> Waits[tuple[str | None, list[Text]]]:
    """One command; who answered it, and what."""
    plan = attempt.plan
    device = "labctl" + "".join(c for c in f"{plan.name}{attempt.client.address}" if c.isalnum())
    path = f"/Microsoft-Server-ActiveSync?Cmd={name}&User={plan.user}&DeviceId={device[:32]}&DeviceType=SmartPhone"
    fields = {
        "Authorization": "Basic " + base64.b64encode(f"{plan.user}:{plan.password}".encode()).decode(),
        "MS-ASProtocolVersion": "14.1",
        "Content-Type": "application/vnd.ms-sync.wbxml",
        "X-MS-PolicyKey": attempt.client.known.get("policy", "0"),
    }
    answer = yield from exchange(attempt, "POST", path, fields, encoded(asked))
    if answer.status == _RETRY_WITH:
        raise lost(attempt)
    expect_status(answer, 200)
    try:
        return answer.member, decoded(answer.body)
    except (IndexError, ValueError) as error:
        raise AnswerError("wrong", f"{name}: {answer.body[:40]!r} is no WBXML: {error}") from error


def lost(attempt: Attempt) -> AnswerError:
    """The partnership is gone; the next request begins another one."""
    attempt.client.known.clear()
    return AnswerError("lost", "the server wants this phone to provision itself again")
