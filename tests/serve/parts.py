"""Multipart answers, read by the standard library."""

import email.parser
import email.policy
from email.message import EmailMessage
from typing import cast

import httpx


def parts_of(answer: httpx.Response) -> list[tuple[str, str, bytes]]:
    """(name, media type, content) of each part; the name is "" where it has none."""
    raw = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    message = cast(EmailMessage, email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw))
    found = []
    for part in message.iter_parts():
        name = str(part.get_param("name", "", "content-disposition"))
        found.append((name, part.get_content_type(), cast(bytes, part.get_payload(decode=True))))
    return found
