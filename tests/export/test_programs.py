"""Programs and ONNX files answer like the network: whole sequences, and one step after the other."""

import pytest
import torch

from ss_lightning import MLP, ConvNet
from ss_lightning.errors import UsageError
from ss_lightning.export import export_checkpoint, export_program, export_step, main, to_onnx

pytestmark = pytest.mark.slow

STEPS, BATCH = 7, 5


def mlp(**changes):
    torch.manual_seed(0)
    arguments = {"input_shape": [20], "num_classes": 3, "step_ms": 1.0, "hidden": [30, 12], "input_gain": 8.0}
    return MLP(**(arguments | changes))


def conv(**changes):
    torch.manual_seed(0)
    arguments = {"input_shape": [1, 8, 8], "num_classes": 3, "step_ms": 1.0, "channels": [3, 4], "kernel_size": 3}
    return ConvNet(**(arguments | {"padding": 1, "hidden": [9], "input_gain": 8.0} | changes))


def sample(net):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(STEPS, BATCH, *net.input_shape, generator=generator) < 0.3).float()


def run_steps(step, x, states):
    """A sample through a program of one step."""
    readout = []
    for spikes in x:
        now, *states = step(spikes, *states)
        readout.append(now)
    return torch.stack(readout), states


def at_rest(program, batch):
    return [torch.zeros(batch, *state.shape[1:]) for state in program.example_inputs[0][1:]]


NETWORKS = {
    "mlp": mlp,
    "conv": conv,
    "skip": lambda: mlp(skip=True, batch_norm=True, log_tau=True, dropout=0.2),
    "average pools": lambda: conv(pool="avg", batch_norm=True, weight_norm=True),
    "multi": lambda: mlp(neuron="multi"),
    "standard": lambda: mlp(neuron="standard_single"),
    "first_spike": lambda: mlp(decoder="first_spike"),
    "no leak": lambda: mlp(tau_hidden_ms=float("inf")),
    "memory of one step": lambda: mlp(tau_hidden_ms=1e-3),  # beta is zero
}
FAST = ("mlp", "multi", "memory of one step")
EACH = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)


@EACH
def test_one_step(name):
    net = NETWORKS[name]().eval()
    x = sample(net)
    with torch.no_grad():
        wanted = net(x)
    assert all(layer.spike_count.sum() > 0 for layer in wanted.activity)
    program = export_step(net)
    step = program.module()
    readout, states = run_steps(step, x, at_rest(program, BATCH))
    assert torch.equal(readout, wanted.readout)
    if net.neuron != "multi":
        for state, layer in zip(states, wanted.activity, strict=False):
            assert torch.equal(state.flatten(1) == -torch.inf, layer.spike_count == 1)
    # Two samples at once, one of which starts anew in the middle.
    states = at_rest(program, 2)
    _, states = run_steps(step, x[:4, :2], states)
    for state in states:
        state[1] = 0
    again, _ = run_steps(step, x[4:, :2], states)
    with torch.no_grad():
        assert torch.equal(again[:, 0], wanted.readout[4:, 0])
        assert torch.equal(again[:, 1], net(x[4:, 1:2]).readout[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: mlp(neuron="multi"), lambda: mlp(neuron="standard_single"),
                                  lambda: mlp(onset_ms=4.0, onset_width_ms=3.0), lambda: mlp(max_delay_ms=3.0),
                                  lambda: mlp(delay_line_ms=[0.0, 2.0])])  # fmt: skip
def test_whole_sequences_of_any_network(tmp_path, make):
    net = make().eval()
    x = sample(net)
    net(x[:, :1])  # what a network did before does not matter
    torch.export.save(export_program(net, STEPS), tmp_path / "net.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), net(x).readout.detach())


def test_a_program_does_not_grow_with_its_steps():
    sizes = [len(export_program(mlp(), steps).graph.nodes) for steps in (2, 40)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("options", [{"max_delay_ms": 3.0}, {"delay_line_ms": [0.0, 2.0]}, {"onset_ms": 4.0}])
def test_one_step_of_networks_with_a_longer_memory_is_refused(options):
    with pytest.raises(UsageError, match="export the whole sequence"):
        export_step(mlp(**options))


class TestOnnx:
    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("onnxscript")
        self.runtime = pytest.importorskip("onnxruntime")
        self.runtime.set_default_logger_severity(3)

    def session(self, file):
        return self.runtime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def step_of(self, file):
        session = self.session(file)
        names = [entry.name for entry in session.get_inputs()]
        assert names == ["spikes", *(f"membrane_{layer}" for layer in range(len(names) - 1))]

        def step(*values):
            answer = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
            return [torch.from_numpy(value) for value in answer]

        return step

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mlp", "conv", "skip", "average pools", "multi", "first_spike"])
    def test_it_answers_like_the_network(self, tmp_path, name):
        net = NETWORKS[name]().eval()
        x = sample(net)
        with torch.no_grad():
            wanted = net(x).readout
        to_onnx(export_program(net, STEPS), tmp_path / "net.onnx")
        for batch in (1, BATCH):
            answer = self.session(tmp_path / "net.onnx").run(["readout"], {"spikes": x[:, :batch].numpy()})
            self.assert_same(torch.from_numpy(answer[0]), wanted[:, :batch], net)
        program = export_step(net)
        to_onnx(program, tmp_path / "step.onnx")
        readout, _ = run_steps(self.step_of(tmp_path / "step.onnx"), x, at_rest(program, BATCH))
        self.assert_same(readout, wanted, net)

    def assert_same(self, found, wanted, net):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        scores = net.decoder.scores(wanted)
        assert torch.equal(net.decoder.scores(found).argmax(1), scores.argmax(1))

    @pytest.mark.slow
    def test_a_checkpoint_on_the_command_line(self, tmp_path, capsys):
        ckpt, net = checkpoint(tmp_path)
        x = sample(net)
        with torch.no_grad():
            wanted = net(x).readout
        assert main([str(ckpt), "--format=onnx", f"--num_steps={STEPS}"]) == 0
        assert main([str(ckpt), "--format=onnx", "--step=true"]) == 0
        assert capsys.readouterr().out.count("wrote ") == 2
        assert {file.name for file in tmp_path.iterdir()} == {"x.ckpt", "x.onnx", "x_step.onnx"}
        answer = self.session(tmp_path / "x.onnx").run(None, {"spikes": x.numpy()})[0]
        self.assert_same(torch.from_numpy(answer), wanted, net)
        rest = [torch.zeros(BATCH, size) for size in (10, 3)]
        readout, _ = run_steps(self.step_of(tmp_path / "x_step.onnx"), x, rest)
        self.assert_same(readout, wanted, net)

    @pytest.mark.slow
    def test_nothing_is_left_of_a_failed_write(self, tmp_path):
        with pytest.raises(UsageError, match="cannot write"):
            to_onnx(export_step(mlp()), tmp_path / "absent" / "net.onnx")


def checkpoint(folder):
    """A trained classifier, and its network."""
    import lightning as L

    from ss_lightning import MLPClassifier
    from ss_lightning.data import YinYangData

    data = YinYangData(num_steps=STEPS, num_train=64, num_val=16, num_test=16)
    model = MLPClassifier(input_shape=data.input_shape, num_classes=3, step_ms=1.0, hidden=[10], input_gain=4.0)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=1, logger=False, accelerator="cpu", **quiet)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "x.ckpt")
    return folder / "x.ckpt", model.network.eval()


def test_files_of_one_step(tmp_path):
    ckpt, net = checkpoint(tmp_path)
    x = sample(net)
    file = export_checkpoint(ckpt, "torch", step=True)
    program = torch.export.load(file)
    readout, _ = run_steps(program.module(), x, at_rest(program, BATCH))
    with torch.no_grad():
        torch.testing.assert_close(readout, net(x).readout)
    assert file.name == "x_step.pt2"
    with pytest.raises(UsageError, match="--step"):
        export_checkpoint(ckpt, step=True)


def test_without_the_packages_of_onnx(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ss-lightning\[onnx\]"):
        to_onnx(export_step(mlp()), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
