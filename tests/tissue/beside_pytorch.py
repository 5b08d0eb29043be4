"""Recipe image-only on real tissue, beside a plain PyTorch loop from the same start weights and batch order.

    python beside_pytorch.py --patches DIR --program mmlnb-train --output DIR [--seeds 5] [--epochs 12] [--losses-only]

DIR of patches: images/ and labels.csv (file_name, class, group). Each fold leaves patients out for the test and others for the choice of the
epoch; each seed draws start weights and the order of the training images. Both programs read the same PNG copies, 256 pixels wide: JPEG decoders differ
in the last bit of many pixels, which is not what is compared here. Prints the largest difference of the loss over the first 20 steps at the recipe's
learning rate, beside that of PyTorch to itself with other kernels; and both programs' accuracy over all left-out images of each seed, with the interval
over patients. Exit code 1 when a loss differs by more than 1e-3.
"""
import argparse
import csv
import json
import math
import os
import random
import subprocess
import sys

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DEPTHS = [2, 2, 3, 3, 3]
TOLERANCE, STEPS, LEARNING_RATE, DRAWS, COPY = 1e-3, 20, 1e-4, 2000, 256


class Vgg(nn.Module):
    """torchvision's `features` in any width, the mean over positions, one linear layer."""

    def __init__(self, channels, classes):
        super().__init__()
        layers, width = [], 3
        for depth, wide in zip(DEPTHS, channels):
            for _ in range(depth):
                layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU()]
                width = wide
            layers.append(nn.MaxPool2d(2))
        self.image = nn.ModuleDict({"features": nn.Sequential(*layers)})
        self.image_head = nn.Linear(width, classes)

    def forward(self, pixels):
        return self.image_head(self.image["features"](pixels).mean((2, 3)))


def start_weights(folder, options, classes, seed):
    """A classifier's folder with random weights, as torchvision draws them."""
    torch.manual_seed(seed)
    model = Vgg(options.channels, len(classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    os.makedirs(folder, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, os.path.join(folder, "model.safetensors"))
    config = {
        "model_type": "mmlnb_classifier", "classes": classes, "confidence_hidden": None,
        "image_encoder": {
            "architecture": "vgg16", "channels": options.channels, "feature_size": options.channels[-1],
            "image_size": [options.size, options.size], "resample": "bilinear", "image_mean": MEAN, "image_std": STD},
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


def read_rows(patches):
    with open(os.path.join(patches, "labels.csv"), encoding="utf-8-sig", newline="") as file:
        return [{key: row[key] for key in ("file_name", "class", "group")} for row in csv.DictReader(file)]


def copies(patches, rows, folder):
    """The images as PNG, read once by Pillow; rows get the copies' names."""
    os.makedirs(folder, exist_ok=True)
    for row in rows:
        with Image.open(os.path.join(patches, "images", row["file_name"])) as image:
            image = image.convert("RGB").resize((COPY, COPY), Image.BILINEAR)
        row["file_name"] = os.path.splitext(row["file_name"])[0] + ".png"
        image.save(os.path.join(folder, row["file_name"]))


def folds(rows):
    """For each fold of patients (test) another one (validation), so that training keeps as many classes as can be."""
    patients = sorted({row["group"] for row in rows})
    count = min(5, len(patients))
    if count < 3:
        sys.exit("at least three patients are needed: to train, to choose and to test")
    parts = [set(patients[index::count]) for index in range(count)]

    def kept(test, validation):
        train = [row for row in rows if row["group"] not in test | validation]
        chosen = [row for row in rows if row["group"] in validation]
        return (len({row["class"] for row in train}), len({row["class"] for row in chosen}), len(train))

    return [(test, max((part for part in parts if part is not test), key=lambda part: kept(test, part))) for test in parts]


def split_rows(rows, test, validation, seed):
    part = lambda row: "test" if row["group"] in test else "validation" if row["group"] in validation else "train"
    rows = [dict(row, split=part(row)) for row in rows]
    random.Random(seed).shuffle(rows)
    return rows


def pixels(images, row, size, known):
    if row["file_name"] not in known:
        with Image.open(os.path.join(images, row["file_name"])) as image:
            image = image.convert("RGB").resize((size, size), Image.BILINEAR)
        values = torch.from_numpy(numpy.asarray(image).astype("float32") / 255)
        known[row["file_name"]] = ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
    return known[row["file_name"]]


def macro_f1(truth, predicted):
    kinds = sorted(set(truth) | set(predicted))
    hits = lambda kind: sum(t == p == kind for t, p in zip(truth, predicted))
    return sum(2 * hits(kind) / (truth.count(kind) + predicted.count(kind)) for kind in kinds) / len(kinds)


def plain_loop(options, rows, classes, start, known):
    """Losses of all steps; the test rows' classes by the epoch that was best on the validation rows."""
    model = Vgg(options.channels, len(classes))
    model.load_state_dict(load_file(os.path.join(start, "model.safetensors")))
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    data = {}
    for part in ("train", "validation", "test"):
        own = [row for row in rows if row["split"] == part]
        data[part] = (torch.stack([pixels(options.images, row, options.size, known) for row in own]),
                      torch.tensor([classes.index(row["class"]) for row in own]))
    losses, best, answers = [], -1.0, None
    for _ in range(options.epochs):
        images, labels = data["train"]
        for at in range(0, len(labels), options.batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[at : at + options.batch]), labels[at : at + options.batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            said = {part: model(data[part][0]).argmax(1).tolist() for part in ("validation", "test")}
        value = macro_f1(data["validation"][1].tolist(), said["validation"])
        if value > best:
            best, answers = value, said["test"]
    return losses, [classes[number] for number in answers]


def ours(options, rows, start, folder, seed):
    """The same by `mmlnb-train classify`."""
    table, config, run = (os.path.join(folder, name) for name in ("data.csv", "config.toml", "run"))
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "class", "group", "split"])
        writer.writeheader()
        writer.writerows(rows)
    with open(config, "w", encoding="utf-8") as file:
        file.write(f'start = "{os.path.abspath(start)}"\nepochs = {options.epochs}\nbatch_size = {options.batch}\n'
                   f'learning_rate = {options.learning_rate}\nsampling = "in-order"\n')
    command = [options.program, "classify", "--recipe", "image-only", "--data", table, "--images",
               options.images, "--output", run, "--config", config, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
        losses = [line["loss"] for line in map(json.loads, file) if line["kind"] == "step"]
    answers = {}
    with open(os.path.join(run, "best", "config.json"), encoding="utf-8") as file:
        names = json.load(file)["classes"]
    with open(os.path.join(run, "predictions.jsonl"), encoding="utf-8") as file:
        for line in map(json.loads, file):
            if line["part"] == "test":
                answers[line["file_name"]] = names[max(range(len(names)), key=lambda n: line["logits"][n])]
    return losses, [answers[row["file_name"]] for row in rows if row["split"] == "test"]


def interval(correct, groups, seed=2024):
    """2.5 % and 97.5 % over patients drawn with replacement."""
    members = {}
    for right, group in zip(correct, groups):
        members.setdefault(group, []).append(right)
    draw, names, means = random.Random(seed), sorted(members), []
    for _ in range(DRAWS):
        drawn = [right for name in draw.choices(names, k=len(names)) for right in members[name]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[math.floor(0.025 * DRAWS)], means[math.ceil(0.975 * DRAWS) - 1]


def losses_alike(options, rows, classes, plan, known):
    """Largest difference of the loss at the recipe's learning rate over the seeds; and of PyTorch to itself, with other convolutions."""
    worst, kernels = 0.0, 0.0
    for seed in range(options.seeds):
        folder = os.path.join(options.output, f"loss{seed}")
        start = os.path.join(folder, "start")
        start_weights(start, options, classes, seed)
        own = split_rows(rows, *plan, seed)
        epochs = math.ceil(STEPS / math.ceil(sum(row["split"] == "train" for row in own) / options.batch))
        same = argparse.Namespace(**{**vars(options), "learning_rate": LEARNING_RATE, "epochs": epochs})
        theirs, _ = plain_loop(same, own, classes, start, known)
        torch.backends.mkldnn.enabled = False
        other, _ = plain_loop(same, own, classes, start, known)
        torch.backends.mkldnn.enabled = True
        losses, _ = ours(same, own, start, folder, seed)
        apart = lambda one: max(abs(a - b) for a, b in zip(one[:STEPS], theirs[:STEPS], strict=True))
        print(f"seed {seed}: the loss over {STEPS} steps differs by {apart(losses):.2e}, PyTorch's with other kernels by {apart(other):.2e} "
              f"(first {theirs[0]:.4f}, last {theirs[STEPS - 1]:.4f})", flush=True)
        worst, kernels = max(worst, apart(losses)), max(kernels, apart(other))
    return worst, kernels


def accuracies(options, rows, classes, plans, known):
    """For each seed what both say about all left-out images."""
    table = []
    for seed in range(options.seeds):
        result = {"ours": [], "pytorch": [], "truth": [], "group": []}
        for number, (test, validation) in enumerate(plans):
            folder = os.path.join(options.output, f"seed{seed}-fold{number}")
            start = os.path.join(folder, "start")
            start_weights(start, options, classes, 100 * seed + number)
            own = split_rows(rows, test, validation, 100 * seed + number)
            _, said = plain_loop(options, own, classes, start, known)
            _, answers = ours(options, own, start, folder, seed)
            tested = [row for row in own if row["split"] == "test"]
            result["ours"] += answers
            result["pytorch"] += said
            result["truth"] += [row["class"] for row in tested]
            result["group"] += [row["group"] for row in tested]
            print(f"seed {seed}, fold {number} of {len(plans)}", flush=True)
        right = {who: [said == truth for said, truth in zip(result[who], result["truth"])] for who in ("ours", "pytorch")}
        table.append({"seed": seed, "items": len(result["truth"]), "patients": len(set(result["group"])),
                      "same_answers": sum(a == b for a, b in zip(result["ours"], result["pytorch"])),
                      **{who: {"accuracy": sum(hits) / len(hits), "interval": interval(hits, result["group"])}
                         for who, hits in right.items()}})
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--channels", type=int, nargs=5, default=[8, 16, 24, 32, 32])
    parser.add_argument("--losses-only", action="store_true", help="without the accuracies")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.patches)
    options.images = os.path.join(options.output, "images")
    copies(options.patches, rows, options.images)
    classes = sorted({row["class"] for row in rows})
    plans, known = folds(rows), {}
    worst, kernels = losses_alike(options, rows, classes, plans[0], known)
    table = [] if options.losses_only else accuracies(options, rows, classes, plans, known)
    if not options.losses_only:
        print("\n| seed | images (patients) | mmlnb-train | PyTorch | same answer |\n|---|---|---|---|---|")
        for row in table:
            shown = [f"{row[who]['accuracy']:.3f} ({row[who]['interval'][0]:.2f} to {row[who]['interval'][1]:.2f})"
                     for who in ("ours", "pytorch")]
            print(f"| {row['seed']} | {row['items']} ({row['patients']}) | {shown[0]} | {shown[1]} | {row['same_answers']} |")
        means = [sum(row[who]["accuracy"] for row in table) / len(table) for who in ("ours", "pytorch")]
        print(f"| mean | | {means[0]:.3f} | {means[1]:.3f} | |")
    print(f"\nlargest difference of the loss over the first {STEPS} steps: {worst:.2e} (allowed {TOLERANCE}); "
          f"of PyTorch with other kernels: {kernels:.2e}")
    with open(os.path.join(options.output, "result.json"), "w", encoding="utf-8") as file:
        json.dump({"largest_loss_difference": worst, "pytorch_with_other_kernels": kernels, "accuracy": table}, file, indent=1)
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
