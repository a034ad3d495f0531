"""llama.cpp as a reader of GGUF files: keys and values in F32, so that all it adds to the weights' rounding is the order of sums."""

import llama_cpp
import numpy as np
import torch

F32 = 0  # the format's number


class LlamaCpp:
    def __init__(self, file, context=512):
        self.model = llama_cpp.Llama(str(file), n_ctx=context, n_batch=context, n_threads=2, logits_all=True, type_k=F32, type_v=F32,
                                     flash_attn=False, verbose=False)

    def logits(self, samples: torch.Tensor) -> torch.Tensor:
        """samples [n, s + 1] -> [n, s, vocabulary], of all but the last token."""
        return torch.stack([self._logits(sample[:-1].tolist()) for sample in samples])

    def _logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return torch.from_numpy(np.array(self.model.scores[: len(ids)]))

    def greedy(self, prompt: list[int], count: int, end: int) -> tuple[list[int], torch.Tensor]:
        """The continuation, up to `count` tokens or `end`, which is one of them, and the logits [tokens, vocabulary] it was chosen by."""
        ids, logits = [], [self._logits(prompt)[-1]]
        while True:
            ids.append(logits[-1].argmax().item())
            if len(ids) == count or ids[-1] == end:
                return ids, torch.stack(logits)
            self.model.eval(ids[-1:])
            logits.append(torch.from_numpy(np.array(self.model.scores[self.model.n_tokens - 1])))

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text.encode(), add_bos=False, special=False)
