"""The networks: backbones, patches, policy, classifier, and the AdaFocus made of them."""
