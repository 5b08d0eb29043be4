"""Times the same training step in plain PyTorch, eager mode: python torch_classify.py BATCH STEPS THREADS PHASE..

VGG16's features and BERT-base with random weights, PRMF, both losses, one torch.optim.Adam. One JSON line a phase with the seconds and the processor
seconds (of all threads) of each step.
A frozen part still runs forward in every step, as it does in the authors' loop.
"""
import json
import sys
import time

import torch
from torch import nn
from transformers import BertConfig, BertModel

PLAN = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def vgg16():
    layers, width = [], 3
    for step in PLAN:
        if step == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, step, 3, padding=1), nn.ReLU(inplace=True)]
            width = step
    return nn.Sequential(*layers)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = vgg16(), BertModel(BertConfig())
        self.confidence, self.projection = nn.Linear(512 + 768, 1), nn.Linear(512, 768)
        self.classifier, self.image_head, self.dropout = nn.Linear(768, 3), nn.Linear(512, 3), nn.Dropout(0.3)

    def forward(self, pixels, ids, mask):
        image = self.image(pixels).mean(dim=(2, 3))
        text = self.text(input_ids=ids, attention_mask=mask).pooler_output
        alpha = torch.sigmoid(self.confidence(torch.cat([image, text], 1)))
        fused = alpha * text + (1 - alpha) * self.projection(image)
        return self.classifier(self.dropout(torch.relu(fused))), self.image_head(image)


def main():
    batch, steps, threads = (int(value) for value in sys.argv[1:4])
    torch.set_num_threads(threads)
    for phase in sys.argv[4:]:
        torch.manual_seed(1)
        model = Classifier().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        model.text.requires_grad_(phase == "all")
        model.image.requires_grad_(phase != "last")
        pixels, ids = torch.randn(batch, 3, 224, 224), torch.randint(30000, (batch, 128))
        mask, labels = torch.ones(batch, 128, dtype=torch.long), torch.randint(3, (batch,))
        seconds, processor = [], []
        for _ in range(steps):
            started, used = time.perf_counter(), time.process_time()
            optimizer.zero_grad(set_to_none=True)
            logits, image_logits = model(pixels, ids, mask)
            loss = 0.5 * nn.functional.cross_entropy(logits, labels) + 0.5 * nn.functional.cross_entropy(image_logits, labels)
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - used)
        print(json.dumps({"phase": phase, "seconds": seconds, "processor": processor}), flush=True)


if __name__ == "__main__":
    main()
