"""The configurations that the tests train: together every architecture, head kind, schedule, optimizer and kind of data."""

SIZES = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 257, "initializer_range": 0.1}  # large enough that attention and exits matter to the loss
TRAINING = {"sequence_length": 64, "micro_batch_size": 2, "global_batch_size": 8, "steps": 20, "validation_samples": 6}


def job(corpora, *, exits, optimizer, model=None, training=None, data=None, **sections) -> dict:
    first = corpora["first"]
    return {
        "model": SIZES | (model or {}),
        "exits": exits,
        "training": TRAINING | (training or {}),
        "optimizer": optimizer,
        "data": {"train": f"{first}_train", "validation": f"{first}_valid", "shuffle": False} | (data or {}),
        "logging": {"tensorboard": False},
    } | sections


def every_head(corpora):
    """One exit of each kind, first and last layer among them, with everything its own."""
    return job(
        corpora,
        exits=[{"layer": 1, "head": "mlp", "loss_weight": 0.3},
               {"layer": 2, "head": "bare", "loss_weight": 0.2},
               {"layer": 4, "loss_weight": 0.25},
               {"layer": 6, "head": "attention", "loss_weight": 0.5},
               {"layer": 8, "head": "block", "loss_weight": 0.7}],
        exit_loss={"schedule": "linear", "start_scale": 0.1, "warmup_steps": 12},
        optimizer={"lr": 0.002, "clip_grad_norm": 0.5, "lr_schedule": {"name": "cosine", "warmup_steps": 5, "min_lr": 0.0002}})


def tied(corpora):
    """The embedding, the final head and most exits share one matrix; more epochs than one."""
    return job(
        corpora,
        model={"tie_word_embeddings": True, "num_key_value_heads": 4, "rope_theta": 500.0, "rms_norm_eps": 1.0e-3},
        exits=[{"layer": 1, "head": "norm", "output": "shared", "norm": "shared", "loss_weight": 0.3},
               {"layer": 3, "head": "block", "output": "shared", "norm": "own", "loss_weight": 0.2},
               {"layer": 5, "head": "bare", "output": "shared", "loss_weight": 0.4},
               {"layer": 8, "head": "mlp", "output": "shared", "norm": "shared", "loss_weight": 0.3}],
        exit_loss={"schedule": "cosine", "start_scale": 2.0, "warmup_steps": 30},
        optimizer={"lr": 0.003, "betas": [0.8, 0.99], "eps": 1.0e-6, "weight_decay": 0.5, "clip_grad_norm": 1.0,
                   "lr_schedule": {"name": "linear", "warmup_steps": 2, "min_lr": 0.001}},
        data={"train": f"{corpora['second']}_train"})


def documents(corpora):
    """Attention within documents, two corpora, an untied shared output, confidence weights."""
    return job(
        corpora,
        model={"num_key_value_heads": 1},
        exits=[{"layer": 1, "head": "attention", "output": "shared", "norm": "shared", "loss_weight": 0.5},
               {"layer": 3, "head": "norm", "output": "shared", "loss_weight": 0.2, "token_weight": "confidence"},
               {"layer": 4, "head": "mlp", "norm": "shared", "loss_weight": 0.5, "token_weight": "confidence"},
               {"layer": 7, "head": "bare", "loss_weight": 1.5, "token_weight": "confidence"},
               {"layer": 8, "head": "attention", "loss_weight": 0.1}],
        training={"global_batch_size": 6, "micro_batch_size": 3},
        optimizer={"lr": 0.002, "lr_schedule": {"name": "wsd", "warmup_steps": 3, "min_lr": 0.0001, "decay_steps": 8}},
        data={"document_mask": True,
              "train": [{"path": f"{corpora['first']}_train", "weight": 5}, {"path": f"{corpora['second']}_train", "weight": 2}]})


def scaled(corpora):
    """Exits that leave the backbone alone, with learning rates of their own; targets left out; a warm-up beyond the end."""
    return job(
        corpora,
        exits=[{"layer": 1, "head": "mlp", "loss_weight": 1.0, "detach": True},
               {"layer": 2, "head": "norm", "loss_weight": 1.0, "detach": True, "lr_scale": 2.0},
               {"layer": 4, "head": "block", "loss_weight": 1.0, "detach": True, "lr_scale": 0.5},
               {"layer": 6, "head": "attention", "loss_weight": 0.5, "lr_scale": 0.0},
               {"layer": 7, "head": "bare", "loss_weight": 0.5, "detach": True}],
        exit_loss={"schedule": "cosine", "start_scale": 0.0, "warmup_steps": 10},
        training={"stop_at": 20, "steps": 50},
        optimizer={"lr": 0.004, "weight_decay": 0.0, "clip_grad_norm": 0, "lr_schedule": {"warmup_steps": 40}},
        data={"loss_mask": str(corpora["mask"])})


def nesterov(corpora):
    return job(
        corpora,
        exits=[{"layer": 1, "head": "block", "norm": "shared", "loss_weight": 0.3},
               {"layer": 8, "head": "mlp", "output": "shared", "loss_weight": 0.5, "lr_scale": 3.0}],
        exit_loss={"schedule": "linear", "start_scale": 3.0, "warmup_steps": 8},
        optimizer={"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3, "clip_grad_norm": 1.5,
                   "lr_schedule": {"name": "cosine", "warmup_steps": 0, "min_lr": 0.001}})


def stretched(corpora):
    """Llama 3's rotary frequencies: of heads of 16, some that stay, some between, some that are divided. An exit that is the whole
    final head, of which the embedding is no part."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    return job(
        corpora,
        model={"rope_scaling": rope},
        exits=[{"layer": 3, "head": "block", "loss_weight": 0.5},
               {"layer": 5, "norm": "shared", "output": "shared", "loss_weight": 0.5}],
        optimizer={"lr": 0.002, "clip_grad_norm": 0.5})


def wide_heads(corpora):
    """Heads that are together wider than the residual stream."""
    return job(
        corpora,
        model={"head_dim": 24},
        exits=[{"layer": 3, "head": "block", "loss_weight": 0.5},
               {"layer": 5, "head": "attention", "output": "shared", "loss_weight": 0.5}],
        optimizer={"lr": 0.002, "clip_grad_norm": 0.5})


def momentum(corpora):
    """A tied model, and a decay after a run that stops before it: steps count to `steps`, not to `stop_at`."""
    return job(
        corpora,
        model={"tie_word_embeddings": True},
        exits=[{"layer": 2, "head": "mlp", "norm": "shared", "output": "own", "loss_weight": 0.4}],
        training={"stop_at": 20, "steps": 40},
        optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.5, "weight_decay": 0.1, "clip_grad_norm": 0,
                   "lr_schedule": {"name": "linear", "warmup_steps": 4}})


def no_exits(corpora):
    return job(corpora, exits=[], optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.2, "clip_grad_norm": 1.0})


def layerskip(corpora):
    """Layers that samples skip, more and more often; the losses take turns, the first layer's weighs nothing."""
    return job(
        corpora,
        exits=[{"layer": 1, "head": "bare"},
               {"layer": 4, "head": "mlp", "token_weight": "confidence"},
               {"layer": 5, "norm": "shared", "output": "shared"},
               {"layer": 7, "head": "block"}],
        layerskip={"p_max": 0.6, "time": "exponential", "e_scale": 0.5, "curriculum": "rotational", "rotation": 3},
        optimizer={"lr": 0.001, "eps": 1.0e-5, "clip_grad_norm": 0.5, "lr_schedule": {"warmup_steps": 6}})  # eps: gradients come and go


def frozen(corpora):
    """Exits alone learn; the last one ends the model within a layer, one shares the frozen final head's matrix, each is clipped."""
    return job(
        corpora,
        model={"tie_word_embeddings": True},
        exits=[{"layer": 2, "loss_weight": 0.25},
               {"layer": 3, "head": "block", "output": "shared", "loss_weight": 0.5, "lr_scale": 0.5},
               {"layer": 4, "head": "attention", "norm": "shared", "loss_weight": 0.1, "token_weight": "confidence"},
               {"layer": 6, "head": "mlp", "output": "shared", "norm": "shared", "loss_weight": 2.0}],
        training={"freeze": "backbone"},
        optimizer={"lr": 0.004, "clip_grad_norm": 0.2})


def distilled(corpora):
    """Exits learn what the final head says of the same tokens, and beside them one the labels."""
    config = frozen(corpora)
    config["exits"][0] |= {"target": "distribution"}
    config["exits"][1] |= {"target": "argmax"}
    config["exits"][2] |= {"target": "distribution"}
    return config


def as_gpt2(config, **model):
    """The same job with a GPT-2, which has no grouped queries, rotations or RMS norms."""
    config["model"] = {key: value for key, value in config["model"].items()
                       if key not in ("num_key_value_heads", "rope_theta", "rope_scaling", "rms_norm_eps")} | {"architecture": "gpt2"} | model
    return config


def gpt2_every_head(corpora):
    return as_gpt2(every_head(corpora))


def gpt2_tied(corpora):
    """More positions than a sample has, and a head of odd size."""
    return as_gpt2(tied(corpora), layer_norm_epsilon=1.0e-3, max_position_embeddings=80, num_attention_heads=3, hidden_size=63)


def gpt2_documents(corpora):
    return as_gpt2(documents(corpora))


def gpt2_scaled(corpora):
    return as_gpt2(scaled(corpora))


def gpt2_nesterov(corpora):
    return as_gpt2(nesterov(corpora))


def gpt2_layerskip(corpora):
    config = layerskip(corpora)
    config["layerskip"] = {"p_max": 0.5, "curriculum": "gradual"}
    return as_gpt2(config)


def gpt2_frozen(corpora):
    return as_gpt2(frozen(corpora))


def supernet(corpora):
    """Every axis elastic. An exit below another keeps the final head's norm, where the other's own is a subnet's."""
    return job(
        corpora,
        model={"num_attention_heads": 8, "num_key_value_heads": 4},
        exits=[{"layer": 2, "output": "shared", "norm": "shared", "loss_weight": 0.5},
               {"layer": 4, "loss_weight": 0.5},
               {"layer": 6, "head": "mlp", "output": "shared", "loss_weight": 0.5}],
        supernet={"plan": "sandwich", "hidden_size": [32, 48, 64], "queries_per_group": [1, 2]},
        optimizer={"lr": 0.002, "clip_grad_norm": 0.5})


LLAMA = (every_head, tied, documents, scaled, nesterov, stretched, wide_heads, momentum, no_exits, layerskip, frozen, distilled)
GPT2 = (gpt2_every_head, gpt2_tied, gpt2_documents, gpt2_scaled, gpt2_nesterov, gpt2_layerskip, gpt2_frozen)
COMPARED = {made.__name__: made for made in (*LLAMA, *GPT2)}  # with the independent PyTorch, which has no supernets
ALL = COMPARED | {"supernet": supernet}
