"""The pipeline as a LitServe API; a module of its own, because LitServe sends the object to its workers by pickle."""

import litserve
from fastapi import Request, Response

from benchmarks.serving.rivals import Worker


class PipelineApi(litserve.LitAPI):
    """A form's file `image` -> the processed photo."""

    steps: list[str]
    threads: int
    noop: bool

    def setup(self, device: str) -> None:
        self.work = Worker(self.steps, self.threads, self.noop)

    def decode_request(self, request: Request) -> bytes:  # LitServe reads the annotation; it gives the form
        return bytes(request["image"].file.read())

    def predict(self, data: bytes) -> bytes:
        return self.work(data)

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/jpeg")
