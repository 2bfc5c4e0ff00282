"""A server whose products are multiplied elsewhere: the mode that was kept, and what is counted."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from cutset.engine.params import SamplingParams
from cutset.llm import LLM, AsyncLLM
from cutset.offload.client.offload import Offload
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.offload.conftest import inproc  # noqa: F401  # a fixture
from tests.serve.conftest import Running
from tests.serve.test_server import readings

ASKED = {"model": "story", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


def test_the_kept_mode_is_named_and_a_lie_is_told(inproc: str) -> None:  # noqa: F811
    with LLM("story", mode="local", threads=1) as llm:
        expected = llm.generate("Once upon a time", SamplingParams(max_tokens=12, temperature=0))[0].text
        scored = llm.generate("Once upon a time", SamplingParams(max_tokens=1, prompt_logprobs=1))[0].prompt_logprobs
        vectors = llm.embed(["Once", "a dog and a cat"])
    llm = AsyncLLM("story", offload=inproc, mode="masked+verified", threads=1)
    try:
        service = Service(llm, limits=RequestLimits())
        server = Server(build_app(service, Auth([], "127.0.0.1")), service)
        with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
            running = Running(service, url)
            answer = running.client().completions.with_raw_response.create(**ASKED)
            assert answer.headers["x-cutset-mode"] == "masked+verified"
            assert answer.parse().choices[0].text == expected
            assert answer.parse().model_extra["cutset"] == {"mode": "masked+verified"}
            *_, last = running.client().completions.create(**ASKED, stream=True)
            assert last.model_extra["cutset"] == {"mode": "masked+verified"}
            counted = readings(url)
            assert counted["cutset_checks_total"] == counted["cutset_offload_calls_total"] > 0
            assert counted["cutset_pads_used_total"] > 0
            assert counted["cutset_offload_bytes_total"] > 0
            echoed = running.client().completions.create(**ASKED | {"max_tokens": 0}, echo=True, logprobs=1)
            assert echoed.choices[0].logprobs.token_logprobs == [one and one.logprob for one in scored]
            found = running.client().embeddings.create(model="story", input=["Once", "a dog and a cat"])
            assert np.array([one.embedding for one in found.data], np.float32).tobytes() == vectors.tobytes()
            assert isinstance(llm.offload, Offload)
            llm.offload.linears.session.broke("gave a wrong product, says this test")
            with pytest.raises(openai.APIStatusError, match="wrong product") as caught:
                running.client().completions.create(**ASKED)
            assert (caught.value.status_code, caught.value.code) == (502, "integrity_error")
            assert "says this test" not in str(caught.value)  # the log tells more, to whom it concerns
            running.idle()
            running.close()
    finally:
        llm.close()
